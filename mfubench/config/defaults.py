"""What a setting is when nothing is said: read from conf/, where the values live."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml

from mfubench.config.schema import Mode
from mfubench.files.paths import CONF


def defaults(mode: str) -> dict[str, Any]:
    """Setting → its default: groups by their option's name, the top-level settings, and those of the mode (None: the
    mode doesn't have it)."""
    top = yaml.safe_load((CONF / "config.yaml").read_text())
    file = CONF / "mode" / f"{mode}.yaml"
    own = yaml.safe_load(file.read_text()) if file.is_file() else {}  # a mode of the user's own
    options = {
        group: option for entry in top.pop("defaults") if isinstance(entry, dict) for group, option in entry.items()
    }
    of_mode = {f"mode.{field.name}": own.get(field.name) for field in fields(Mode)}
    return options | top | of_mode | {f"liger.{switch}": value for switch, value in top["liger"].items()}
