"""The settings of a result → the command that asks for them again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from mfubench.config.vocabulary import GROUPS_WITH_OPTIONS, UNMEASURED
from mfubench.files.paths import CONF

# Groups that the command chooses an option of; the framework's is written in another way.
CHOSEN_GROUPS = tuple(group for group in GROUPS_WITH_OPTIONS if group not in ("framework", *UNMEASURED))
FILE = re.compile(r"[\w-]+(/[\w.-]+)?", re.ASCII)
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")


def command(settings: Mapping[str, Any]) -> str:
    """`python -m mfubench ...`, for the commit that the result names: each group's option, and what it doesn't say itself."""
    framework = settings["framework"]
    asked = [f"framework={framework['name']}"]
    if framework.get("engine"):
        asked.append(f"framework.engine={_value(framework['engine'])}")
    asked += _native(framework.get("native", {}), "++framework.native.")
    defaults = _file("config")
    chosen = {
        name: option for line in defaults.get("defaults", ()) if isinstance(line, dict) for name, option in line.items()
    }
    for group in CHOSEN_GROUPS:
        option = settings[group]["name"]
        if option != chosen.get(group):
            asked.append(f"{group}={option}")
        asked += _leaves(settings[group], _file(f"{group}/{option}"), f"{group}.")
    rest = {key: value for key, value in settings.items() if key not in (*GROUPS_WITH_OPTIONS, *UNMEASURED)}
    asked += _leaves(rest, defaults, "")
    return " ".join(map(shlex.quote, ("python", "-m", "mfubench", *asked)))


def _native(keys: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in keys.items():
        if isinstance(value, Mapping) and value:
            yield from _native(value, f"{above}{key}.")
        else:
            yield f"{above}{key}={_value(value)}"


def _leaves(asked: Mapping[str, Any], said: Mapping[str, Any], above: str) -> Iterator[str]:
    """key=value of what was asked and isn't said."""
    for key, value in asked.items():
        known = said.get(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, known if isinstance(known, Mapping) else {}, f"{above}{key}.")
        elif value != known and key != "name" and "${" not in str(known):  # that follows from what else is asked
            yield f"{above}{key}={_value(value)}"


def _value(value: object) -> str:
    """In the words of an override: strings that could be read otherwise in quotes."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value not in ("null", "true", "false"):
        return value
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):  # Hydra takes no quotes around a key
        return f"{{{','.join(f'{key}: {_value(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


@cache
def _file(name: str) -> Mapping[str, Any]:
    """Return the content of a file of conf/ over the files it builds on; nothing if it is missing (a result from elsewhere)."""
    import yaml

    path = CONF / f"{name}.yaml"
    if not FILE.fullmatch(name) or not path.is_file():
        return {}
    content = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    said: Mapping[str, Any] = {}
    for below in content.get("defaults", ()) if "/" in name else ():
        said = _laid_over(said, content if below == "_self_" else _file(f"{name.partition('/')[0]}/{below}"))
    return said or content


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key for key in below if isinstance(below[key], Mapping) and isinstance(above.get(key), Mapping)}
    return {**below, **above, **{key: _laid_over(below[key], above[key]) for key in both}}
