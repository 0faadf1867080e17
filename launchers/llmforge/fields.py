"""Check the values of a configuration file: a section and a table of kinds give its values, as they are used.

A FileError names the field, the given value and the expected one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class FileError(ValueError):
    """A mistake in the user's files: the field, its value, and the expected value."""

    def __init__(self, field: str, given: object, expected: str, *, place: str = "") -> None:
        self.field = field
        self.given = place + _text(given)
        self.expected = expected
        super().__init__(f"{field}: given {self.given}; expected {expected}")

    def screen(self, file: str) -> str:
        """The error for a terminal."""
        return f"finetune: {file} can't be used\n  field     {self.field}\n  given     {self.given}\n  expected  {self.expected}"


@dataclass(frozen=True)
class Kind:
    """A kind of value, in words, and its reader: `read` raises ValueError or TypeError for any other value."""

    expected: str
    read: Callable[[Any], Any]


def read_section(section: object, kinds: Mapping[str, Kind], prefix: str = "") -> dict[str, Any]:
    """The values of a section without null ones. `prefix` is its own name with a dot. Raises FileError."""
    if not isinstance(section, Mapping):
        raise FileError(prefix.rstrip(".") or "the file", section, "fields, one `name: value` a line")
    values = {}
    for name, given in section.items():
        if name not in kinds:
            raise FileError(f"{prefix}{name}", given, f"a known field{nearest(str(name), kinds, prefix)}")
        if given is None:
            continue
        try:
            values[name] = kinds[name].read(given)
        except FileError:
            raise
        except (ValueError, TypeError) as error:
            raise FileError(f"{prefix}{name}", given, kinds[name].expected) from error
    return values


def nearest(given: str, names: Iterable[str], prefix: str = "") -> str:
    """The names most like `given` as ", such as NAME"; if none is like it, all names of a short list."""
    known = list(names)
    like = get_close_matches(given, known, n=2) or (known if len(known) < 12 else [])
    return f", such as {' or '.join(f'{prefix}{name}' for name in like)}" if like else "; --help lists them"


def whole(least: int) -> Kind:
    """A whole number from `least` upwards."""

    def read(given: object) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise ValueError
        return given

    return Kind(f"a whole number, at least {least}", read)


def number(expected: str, allowed: Callable[[float], bool]) -> Kind:
    """A number; YAML takes 1e-4 for text, so numbers that are text will do."""

    def read(given: Any) -> float:
        if isinstance(given, bool) or not allowed(value := float(given)):
            raise ValueError
        return value

    return Kind(expected, read)


def one_of(*allowed: str | bool) -> Kind:
    """One of a few words."""

    def read(given: object) -> object:
        if not isinstance(given, str | bool) or given not in allowed:
            raise ValueError
        return given

    return Kind(" or ".join(_text(word) for word in allowed), read)


def of_type(expected: str, *types: type) -> Kind:
    """A value of one of these types; a text must not be empty."""

    def read(given: object) -> object:
        if not isinstance(given, types) or given == "":
            raise TypeError
        return given

    return Kind(expected, read)


def names(expected: str) -> Kind:
    """A list of names; a single name is a pattern, as in PEFT, and stays text."""

    def read(given: object) -> object:
        listed = given if isinstance(given, list) else [given]
        if not all(isinstance(name, str) and name for name in listed):
            raise TypeError
        return given

    return Kind(expected, read)


def section(name: str, kinds: Mapping[str, Kind]) -> Kind:
    """Fields inside a field."""
    return Kind("fields", lambda given: read_section(given, kinds, f"{name}."))


def _text(given: object) -> str:
    """A value on one line, as it could stand in the file."""
    if isinstance(given, Path):
        return str(given)
    words = given if isinstance(given, str) else json.dumps(given, default=str)
    return words if len(words) <= 100 else f"{words[:97]}..."
