"""What a setting is when nothing is said: read from conf/, where the values live."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml

from mfubench.config.schema import Mode
from mfubench.paths import CONF


def defaults(mode: str) -> dict[str, Any]:
    """Setting → its default, for the top-level settings and for those of the mode (None: the mode doesn't have it)."""
    top = yaml.safe_load((CONF / "config.yaml").read_text())
    own = yaml.safe_load((CONF / "mode" / f"{mode}.yaml").read_text())
    scalars = {key: value for key, value in top.items() if key != "defaults"}
    return scalars | {f"mode.{field.name}": own.get(field.name) for field in fields(Mode)}
