"""What must stand in no file that mfubench writes or uploads. In: the environment. Out: texts and files without its secrets.

A secret is the value of an environment variable whose name says so: *_API_KEY, *_TOKEN, *_SECRET, *PASSWORD* and the like.
One shorter than LEAST characters is left where it stands: it would be found in words that have nothing to do with it.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

SECRET_VARIABLE = re.compile(r"_API_KEY$|_TOKEN$|_SECRET(_|$)|PASSWORD")
# The last word of a setting; pad_token, eos_token and their like are no secrets.
SECRET_SETTING = re.compile(
    r"(^|_)(api_?key|secret(_key)?|password|(access|api|auth|hf|hub|wandb)_token)$|^token$", re.I
)
MIN_SECRET_LENGTH = 8  # characters
NEVER_MATCHES = "(?!)"  # matches nowhere
MASK = "***"
T = TypeVar("T", str, bytes)


def in_environment() -> dict[str, str]:
    """What a text may hold of the secrets → the variable: each as it is, as JSON has it, and as an address has it."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name) and len(secret := value.strip()) >= MIN_SECRET_LENGTH:
            found |= dict.fromkeys((secret, json.dumps(secret)[1:-1], quote(os.fsencode(secret), safe="")), name)
    return found


def found_in(text: str) -> str | None:
    """The variable whose secret stands in the text."""
    return next((name for secret, name in in_environment().items() if secret in text), None)


def clean(text: str) -> str:
    """The text with every secret replaced."""
    return str(clean_tree(text))


def clean_tree(tree: Any) -> Any:
    """What JSON can hold, with every secret in its texts, and in its keys, replaced."""
    secrets = in_environment()
    return _masked(re.compile("|".join(map(re.escape, _longest_first(secrets))) or NEVER_MATCHES), tree)


def clean_file(path: Path) -> None:
    """Write asterisks over every secret in a file, in its place: that needs no disk, and the file is whole at any moment."""
    secrets = [os.fsencode(secret) for secret in in_environment()]
    if not secrets or not path.is_file() or not path.stat().st_size:
        return
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        if all(content.find(secret) < 0 for secret in secrets):  # ten times quicker than the next line
            return
        for found in re.finditer(b"|".join(map(re.escape, _longest_first(secrets))), content):
            content[found.start() : found.end()] = b"*" * len(found[0])


def clean_output(log: Path, records: Path) -> None:
    """Clean what a run's framework wrote: it may have printed its environment."""
    for path in (log, *records.glob("*.jsonl")):
        clean_file(path)


def looks_secret(setting: str, value: object) -> bool:
    """Whether a setting, by its name, takes a secret, and has one: not null, not a switch, nothing that is filled in later."""
    says_something = isinstance(value, str) and value.strip() != "" and "${" not in value
    return says_something and SECRET_SETTING.search(setting.rpartition(".")[2]) is not None


def _masked(secrets: re.Pattern[str], tree: Any) -> Any:
    if isinstance(tree, str):
        return secrets.sub(MASK, tree)
    if isinstance(tree, Mapping):
        return {_masked(secrets, key): _masked(secrets, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_masked(secrets, value) for value in tree]
    return tree


def _longest_first(secrets: Iterable[T]) -> list[T]:
    """One that begins another must not be found in its place."""
    return sorted(secrets, key=len, reverse=True)
