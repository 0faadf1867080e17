"""Keep the environment's secrets out of every file that mfubench writes or uploads.

A secret is the value of an environment variable with a name such as *_API_KEY, *_TOKEN, *_SECRET, *PASSWORD*.
One shorter than MIN_SECRET_LENGTH is left in place: it would be found in unrelated words.
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
# The last word of a setting's name; pad_token, eos_token and their like are no secrets.
SECRET_SETTING = re.compile(
    r"(^|_)(api_?key|secret(_key)?|password|(access|api|auth|hf|hub|wandb)_token)$|^token$", re.I
)
MIN_SECRET_LENGTH = 8  # characters
NEVER_MATCHES = "(?!)"  # matches nowhere
MASK = "***"
T = TypeVar("T", str, bytes)


def in_environment() -> dict[str, str]:
    """Secret text → its variable: each secret as it is, and as it looks in JSON and in a URL."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name) and len(secret := value.strip()) >= MIN_SECRET_LENGTH:
            found |= dict.fromkeys((secret, json.dumps(secret)[1:-1], quote(os.fsencode(secret), safe="")), name)
    return found


def found_in(text: str) -> str | None:
    """The variable whose secret occurs in the text."""
    return next((name for secret, name in in_environment().items() if secret in text), None)


def clean(text: str) -> str:
    """The text with every secret replaced."""
    return str(clean_tree(text))


def clean_tree(tree: Any) -> Any:
    """A JSON-like tree with every secret in its texts and keys replaced."""
    secrets = in_environment()
    return _masked(re.compile("|".join(map(re.escape, _longest_first(secrets))) or NEVER_MATCHES), tree)


def clean_file(path: Path) -> None:
    """Overwrite every secret in a file with asterisks, in place: that needs no disk space, and the file is always whole."""
    secrets = [os.fsencode(secret) for secret in in_environment()]
    if not secrets or not path.is_file() or not path.stat().st_size:
        return
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        if all(content.find(secret) < 0 for secret in secrets):  # ten times faster than the next line
            return
        for found in re.finditer(b"|".join(map(re.escape, _longest_first(secrets))), content):
            content[found.start() : found.end()] = b"*" * len(found[0])


def clean_output(log: Path, records: Path) -> None:
    """Clean the log and records of a run's framework: it may have printed its environment."""
    for path in (log, *records.glob("*.jsonl")):
        clean_file(path)


def looks_secret(setting: str, value: object) -> bool:
    """True if a setting's name asks for a secret and it has one: not null, no switch, nothing to be filled in later."""
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
    """Longest first, so that a secret that begins another is not found in its place."""
    return sorted(secrets, key=len, reverse=True)
