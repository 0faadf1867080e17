"""Errors in settings that are wrong on any machine: one screen for the user, before anything is started."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from mfubench.files import secrets

COMMAND = "python -m mfubench"
PLAIN_VALUE = re.compile(r"[\w/.+-]+", re.ASCII)  # what Hydra reads as it stands


class ConfigError(ValueError):
    """A setting that is wrong on any machine: the given value, the expected one, and the right override.

    `instead`: overrides as a shell reads them, after -m if it takes a sweep; None where none is known to be right.
    """

    def __init__(self, problem: str, *, given: str, expected: str, instead: str | None = None) -> None:
        super().__init__(f"{problem} (given {given}; expected {expected})")
        self.problem = problem
        self.given = given
        self.expected = expected
        self.instead = instead

    def screen(self, argv: Sequence[str], command: str = COMMAND) -> str:
        """The error for a terminal, with a corrected command line of `command` made from `argv`."""
        of_this_key = [a for a in argv if "=" in a and key_of(a) == key_of(self.given)]
        typed = of_this_key[-1] if of_this_key else self.given  # the last one wins
        lines = [f"mfubench: {self.problem}", f"  given     {typed}", f"  expected  {self.expected}"]
        if self.instead is not None:
            words = shlex.split(self.instead)
            flags, overrides = (words[:1], words[1:]) if words[0] == "-m" else ([], words)
            right = [_for_all_values(override, self.given, typed) for override in overrides]
            replaced = {key_of(override) for override in right}
            kept = [a for a in argv if a != typed and not ("=" in a and key_of(a) in replaced)]
            lines.append(f"  try       {command} {shlex.join([*flags, *kept, *right])}")
        return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)


class WrongCombination(ConfigError):
    """Settings that are valid alone and exclude each other; inside a sweep this is a row, not the end."""


def nearest(given: str, valid: Iterable[str], likeness: float = 0.5) -> list[str]:
    """The valid names most like the given one, best first; empty if none is like it."""
    names = list(valid)
    longer = sorted(name for name in names if len(given) > 1 and name.startswith(given))
    return list(dict.fromkeys([*longer, *get_close_matches(given, names, n=3, cutoff=likeness)]))[:3]


def no_secret_in(text: str, what: str) -> None:
    """Raise ConfigError if a text that would appear in a run's files contains the value of a secret environment variable."""
    if (name := secrets.found_in(text)) is not None:
        raise ConfigError(
            f"{what} has the value of ${name}, and the run's files would show it",
            given=secrets.MASK,
            expected=f"no secret: a run's processes find ${name} in their environment",
        )


def key_of(override: str) -> str:
    """The dotted key of an override, without its + or ~ and its package."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def quoted(text: str) -> str:
    """The value of an override that Hydra reads as this very text."""
    if PLAIN_VALUE.fullmatch(text):
        return text
    escaped = re.sub(r'(\\*)("|$)', r"\1\1\2", text)  # a backslash stands for itself, but in front of a quote
    return '"' + escaped.replace('"', '\\"').replace("${", "\\${") + '"'


def _for_all_values(instead: str, given: str, typed: str) -> str:
    """`instead` with the other values of `typed`, if that is a sweep and `given` has only one of them."""
    name, _, right = instead.partition("=")
    wrong, values = given.partition("=")[2], typed.partition("=")[2]
    if right == wrong:  # only the name was wrong
        return f"{name}={values}"
    if key_of(instead) != key_of(typed) or wrong not in values.split(","):
        return instead
    put_right = [right if value == wrong else value for value in values.split(",")]
    return f"{name}={','.join(dict.fromkeys(put_right))}"
