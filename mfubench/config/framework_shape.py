"""A framework's YAML, and what the command line makes of it → ConfigError where it hasn't the shape that the plan reads. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mfubench.config.errors import ConfigError
from mfubench.config.schema import Framework


def validate_framework(framework: Framework) -> None:
    """Raise ConfigError for the first part that isn't what conf/framework/ has."""
    for part, value, expected in _wrong(framework):
        raise ConfigError(f"framework.{part} can't be {value}", given=f"framework.{part}={value}", expected=expected)


def _wrong(framework: Framework) -> Iterator[tuple[str, Any, str]]:
    if not framework.command and not framework.engines:
        yield "command", framework.command, "a list of words: a program and its arguments"
    for engine in framework.engines or []:
        if not isinstance(engine, dict):
            yield "engines", engine, "a list of mappings"
    for rule in framework.unsupported:
        if not isinstance(rule, dict) or "because" not in rule:
            yield "unsupported", rule, "a list of mappings of settings to values, each with `because`"
    yield from _wrong_branches("when", framework.when)


def _wrong_branches(part: str, when: Any) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(when, dict):
        yield part, when, "a mapping of settings to branches"
        return
    for setting, branches in when.items():
        if not isinstance(branches, dict):
            yield f"{part}.{setting}", branches, "a mapping of its values to native keys"
            continue
        for value, content in branches.items():
            where = f"{part}.{setting}.{value}"
            if not isinstance(content, dict | None):
                yield where, content, "a mapping of native keys, or nothing"
            elif content and "when" in content:
                yield from _wrong_branches(f"{where}.when", content["when"])
