"""The architectures of conf/model/, as they stand there."""

from __future__ import annotations

from typing import Any

import yaml

from mfubench.paths import CONF


def architecture_of(model: str) -> dict[str, Any]:
    """In the words of transformers' config.json."""
    return yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text(encoding="utf-8"))["architecture"]
