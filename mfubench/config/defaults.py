"""Read the options, the defaults, and the rules and extra packages of all frameworks, from conf/, where they live."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from functools import cache
from typing import Any

import yaml

from mfubench.config.schema import Mode
from mfubench.files.paths import CONF


def options_of(group: str) -> list[str]:
    """The names of a group's options."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def defaults(mode: str) -> dict[str, Any]:
    """Setting → its default: groups by their option's name, top-level settings, and the mode's (None: the mode lacks it)."""
    top = yaml.safe_load((CONF / "config.yaml").read_text())
    file = CONF / "mode" / f"{mode}.yaml"
    own = yaml.safe_load(file.read_text()) if file.is_file() else {}  # a user's own mode has no file
    options = {
        group: option for entry in top.pop("defaults") if isinstance(entry, dict) for group, option in entry.items()
    }
    of_mode = {f"mode.{field.name}": own.get(field.name) for field in fields(Mode)}
    of_liger = {f"liger.{switch}": value for switch, value in top["liger"].items()}
    return options | top | of_mode | of_liger | {"framework.random_weights": "disk"}


@cache
def mode_of(name: str) -> Mode:
    """Return an option of conf/mode as it stands there."""
    return Mode(**yaml.safe_load((CONF / "mode" / f"{name}.yaml").read_text()))


@cache
def rules() -> dict[str, list[dict[str, Any]]]:
    """Read conf/rules.yaml: `any` or a trainer → the combinations that it can't do, each with `because`."""
    read: dict[str, list[dict[str, Any]]] = yaml.safe_load((CONF / "rules.yaml").read_text())
    return read


@cache
def extras() -> dict[str, dict[str, Any]]:
    """Read conf/extras.toml: package → its module, the settings that need it, and how it is installed."""
    return tomllib.loads((CONF / "extras.toml").read_text())
