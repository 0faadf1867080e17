"""Go on with a sweep or a run: find ok results, give free folders, write the command that resumes.

A result that a later run of the same settings replaces is renamed to superseded.json.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from glob import glob
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

import yaml

from mfubench.config import ConfigError
from mfubench.config.compose import Sweep
from mfubench.config.errors import COMMAND, key_of, quoted
from mfubench.files import secrets
from mfubench.plan.plan import RECORDS
from mfubench.result.result_file import FILE_NAME, Result, UnreadableResult, find_results, read_result

LOG = "framework.log"
SUPERSEDED = "superseded.json"


def earlier_folders(folder: Path, sweep: Path | None) -> tuple[Path, ...]:
    """Return the folders to search for earlier runs: the sweep's, or FOLDER, FOLDER-2, FOLDER-3 … for a single run."""
    return (sweep,) if sweep else tuple(takewhile(Path.exists, _one_after_another(folder)))


def find_ok(mine: Mapping[str, Any], below: tuple[Path, ...]) -> tuple[Result, Path] | None:
    """Return the ok result of this identity below the folders, and its folder."""
    for earlier in _earlier(below):
        if earlier.status == "ok" and earlier.identity == mine:
            return read_result(earlier.path), earlier.path.parent
    return None


def supersede(mine: Mapping[str, Any], below: tuple[Path, ...], by: Path, ok: bool) -> None:
    """Rename the earlier results of the same settings below the folders, which the result in `by` replaces.

    Only results that were there when this process began are renamed, and an ok one only if the new one is ok.
    """
    for earlier in _earlier(below):
        same = earlier.identity.get("settings") == mine["settings"]
        if same and earlier.path.parent != by and (ok or earlier.status != "ok") and earlier.path.exists():
            os.rename(earlier.path, earlier.path.with_name(SUPERSEDED))


def claim_folder(folder: Path, resuming: bool) -> Path:
    """Claim a folder for this run: creating its records/ decides, since two runs may start in the same second.

    If a run has the folder already, a resumed one takes FOLDER-2, FOLDER-3, …; otherwise raises ConfigError.
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
    """Return the error for a run in another run's folder."""
    return ConfigError(
        "there is a run in this folder already",
        given=str(folder),
        expected="a folder of its own, or resume=true",
        instead=shlex.quote(f"hydra.run.dir={quoted(f'{folder}-{os.getpid()}')}"),
    )


def claim_sweep_folder(sweep: Sweep) -> Path:
    """Return the folder of a sweep's results.

    That is the folder given on the command line; for a resumed sweep, the last one of the same command line; else a new
    one, which is made: of two sweeps that start in the same second, the other gets FOLDER-2. Raises ConfigError if runs lie
    there and the sweep isn't resumed.
    """
    if sweep.resume and not sweep.named:
        alike = (
            path.parent for path in _newest_first(f"{sweep.pattern}/multirun.yaml") if _asked_the_same(path, sweep)
        )
        return next(alike, sweep.folder)
    if not sweep.named:
        for folder in _one_after_another(sweep.folder):
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
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
    """Make and lock the sweep's folder. Raises ConfigError if another process runs the same sweep."""
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
    """Return the override that sets the sweep's folder."""
    return f"hydra.sweep.dir={quoted(str(folder))}"


def resume_command(argv: Sequence[str], folder: Path) -> str:
    """Return the command line that resumes the sweep begun by `argv` in this folder."""
    kept = [argument for argument in argv if key_of(argument) not in ("resume", "hydra.sweep.dir")]
    return f"{COMMAND} {shlex.join([*kept, 'resume=true', sweep_dir_override(folder)])}"


@dataclass(frozen=True)
class _Earlier:
    """A result that lay there when this process began."""

    path: Path
    status: str
    identity: Mapping[str, Any]


def _one_after_another(folder: Path) -> Iterator[Path]:
    """Yield FOLDER, FOLDER-2, FOLDER-3 and so on."""
    return chain([folder], (folder.with_name(f"{folder.name}-{number}") for number in count(2)))


@cache
def _earlier(below: tuple[Path, ...]) -> tuple[_Earlier, ...]:
    """Return the results below the folders, without those that can't be read."""
    found = []
    for path in find_results(below):
        try:
            result = read_result(path)
        except UnreadableResult:
            continue
        found.append(_Earlier(path, result.status, result.provenance.identity))
    return tuple(found)


def _newest_first(pattern: str) -> list[Path]:
    return sorted(map(Path, glob(pattern)), key=lambda path: path.stat().st_mtime, reverse=True)


def _asked_the_same(multirun: Path, sweep: Sweep) -> bool:
    """Return True if Hydra's record of a sweep has the same settings, in any order."""
    try:
        asked = yaml.safe_load(multirun.read_text())["hydra"]["overrides"]["task"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):  # torn, or of something else
        return False
    return _sorted_settings(map(str, asked)) == _sorted_settings(sweep.overrides)


def _sorted_settings(overrides: Any) -> list[str]:
    return sorted(override for override in overrides if key_of(override) != "resume")
