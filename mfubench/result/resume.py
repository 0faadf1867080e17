"""What is done already. In: a sweep, or a run's identity. Out: where it goes on, the ok result that is there, a free folder.

A result that another one of the same settings has taken the place of is superseded.json from then on.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from glob import glob
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

import yaml

from mfubench.config import ConfigError
from mfubench.config.compose import Sweep
from mfubench.config.errors import COMMAND, key_of
from mfubench.files import secrets
from mfubench.plan.native import RECORDS
from mfubench.result.result_file import FILE_NAME, Result, UnreadableResult, find, read

LOG = "framework.log"
SUPERSEDED = "superseded.json"
PLAIN = re.compile(r"[\w/.+-]+", re.ASCII)  # what Hydra reads as it stands


def earlier_folders(folder: Path, sweep: Path | None) -> tuple[Path, ...]:
    """Where runs of the same settings may lie: in the sweep; for a single run in its folder, and in those that it was given
    where another one had that already."""
    return (sweep,) if sweep else tuple(takewhile(Path.exists, _one_after_another(folder)))


def find_ok(mine: Mapping[str, Any], below: tuple[Path, ...]) -> tuple[Result, Path] | None:
    """The ok result of this identity below the folders, and where it lies."""
    for earlier in _earlier(below):
        if earlier.status == "ok" and earlier.identity == mine:
            return read(earlier.path), earlier.path.parent
    return None


def supersede(mine: Mapping[str, Any], below: tuple[Path, ...], by: Path, ok: bool) -> None:
    """The result in the folder `by` takes the place of all of the same settings that lay below before this process began.

    One that isn't ok takes no ok one's place.
    """
    for earlier in _earlier(below):
        same = (earlier.identity or {}).get("settings") == mine["settings"]
        if same and earlier.path.parent != by and (ok or earlier.status != "ok") and earlier.path.exists():
            os.rename(earlier.path, earlier.path.with_name(SUPERSEDED))


def claim_folder(folder: Path, resuming: bool) -> Path:
    """The folder, this run's own from now on: whoever makes its records has it, since two may start in the same second.

    Where a run has it already, one that is resumed takes the next: FOLDER-2, FOLDER-3, ...; else ConfigError.
    """
    for candidate in _one_after_another(folder):
        candidate.mkdir(parents=True, exist_ok=True)
        try:
            (candidate / RECORDS).mkdir()
            return candidate
        except FileExistsError as error:
            if not resuming:
                raise folder_taken(folder) from error
            if not (candidate / FILE_NAME).exists():  # it was killed before it could do that itself
                secrets.clean_output(candidate / LOG, candidate / RECORDS)
    raise AssertionError("numbers don't end")


def folder_taken(folder: Path) -> ConfigError:
    """What another run in this folder is refused with."""
    return ConfigError(
        "there is a run in this folder already",
        given=str(folder),
        expected="a folder of its own, or resume=true",
        instead=f"hydra.run.dir={_quoted(f'{folder}-{os.getpid()}')}",
    )


def sweep_folder(sweep: Sweep) -> Path:
    """Where the sweep's results go: the folder that the command line names; where it is to be resumed, the last one of the
    same command line; else a new one. ConfigError where runs lie there and aren't to be resumed."""
    if sweep.resume and not sweep.named:
        alike = (
            path.parent for path in _newest_first(f"{sweep.pattern}/multirun.yaml") if _asked_the_same(path, sweep)
        )
        return next(alike, sweep.folder)
    if not sweep.resume and next(sweep.folder.glob(f"*/{RECORDS}"), None) is not None:
        raise ConfigError(
            "there is a sweep in this folder already",
            given=str(sweep.folder),
            expected="resume=true to go on with it, or a folder of its own",
            instead="resume=true",
        )
    return sweep.folder


@contextmanager
def locked_sweep(folder: Path) -> Iterator[None]:
    """The sweep's folder, made where it isn't there; ConfigError while another process goes on with the same sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself is the lock, so that nothing lies about
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "another mfubench goes on with this sweep", given=str(folder), expected="a sweep that nobody runs"
            ) from error
        yield
    finally:
        os.close(descriptor)


def sweep_dir_override(folder: Path) -> str:
    """The override that makes this the sweep's folder."""
    return f"hydra.sweep.dir={_quoted(str(folder))}"


def resume_command(argv: Sequence[str], folder: Path) -> str:
    """The command line that goes on with the sweep that `argv` began in this folder."""
    kept = [argument for argument in argv if key_of(argument) not in ("resume", "hydra.sweep.dir")]
    return f"{COMMAND} {shlex.join([*kept, 'resume=true', sweep_dir_override(folder)])}"


@dataclass(frozen=True)
class _Earlier:
    """A result that lay there when this process began."""

    path: Path
    status: str
    identity: Mapping[str, Any] | None  # None: of an mfubench that didn't tell it


def _one_after_another(folder: Path) -> Iterator[Path]:
    """FOLDER, FOLDER-2, FOLDER-3, ..."""
    return chain([folder], (folder.with_name(f"{folder.name}-{number}") for number in count(2)))


@cache
def _earlier(below: tuple[Path, ...]) -> tuple[_Earlier, ...]:
    """The results below the folders; one that can't be read is none."""
    found = []
    for path in find(below):
        try:
            result = read(path)
        except UnreadableResult:
            continue
        found.append(_Earlier(path, result.status, result.provenance.get("identity")))
    return tuple(found)


def _newest_first(pattern: str) -> list[Path]:
    return sorted(map(Path, glob(pattern)), key=lambda path: path.stat().st_mtime, reverse=True)


def _asked_the_same(multirun: Path, sweep: Sweep) -> bool:
    """Whether Hydra's record of a sweep has the same settings, in whatever order."""
    try:
        asked = yaml.safe_load(multirun.read_text())["hydra"]["overrides"]["task"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):  # torn, or of something else
        return False
    return _sorted_settings(map(str, asked)) == _sorted_settings(sweep.overrides)


def _sorted_settings(overrides: Any) -> list[str]:
    return sorted(override for override in overrides if key_of(override) != "resume")


def _quoted(text: str) -> str:
    """A value of an override, so that Hydra reads this very text."""
    if PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r"(\\*)('|$)", r"\1\1\2", text)  # a backslash stands for itself, but in front of a quote
    return "'" + escaped.replace("'", "\\'") + "'"
