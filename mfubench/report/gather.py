"""Folders → the results in them, and what is to be said of everything that is none. The rest is still reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mfubench.report.flat import records
from mfubench.report.overview import overview
from mfubench.report.result import FILE_NAME, Result, UnreadableResult, find, read


@dataclass(frozen=True)
class Gathered:
    """What lies in and below some folders."""

    results: tuple[Result, ...]  # every run once
    complaints: tuple[str, ...]  # a sentence for each folder without results and each file that is none
    copies: tuple[str, ...]  # a sentence for each file that holds a run which another one holds, too


def gather(folders: Sequence[Path], shown: Callable[[Result], object] | None = None) -> Gathered:
    """The results in and below the folders, in their order; a file given, or found by two ways, is read once.

    `shown`: what the report will make of a result besides rows; where that can't be made, the file is none.
    """
    results: list[Result] = []
    complaints: list[str] = []
    copies: list[str] = []
    runs: dict[str, Path] = {}
    seen: set[Path] = set()
    for folder in folders:
        if not folder.exists():
            complaints.append(f"there is no {folder}")
            continue
        paths = list(find([folder]))
        if not paths:
            complaints.append(f"no {FILE_NAME} in or below {folder}; `python -m mfubench` makes one")
        for path in (path for path in paths if path.resolve() not in seen):
            seen.add(path.resolve())
            try:
                result = _sound(path, shown)
            except UnreadableResult as error:
                complaints.append(str(error))
                continue
            first = runs.setdefault(_run(result), path)
            if first is path:
                results.append(result)
            else:
                copies.append(f"{path} is the same run as {first}; it counts once")
    return Gathered(tuple(results), tuple(complaints), tuple(copies))


def _sound(path: Path, shown: Callable[[Result], object] | None) -> Result:
    """The result in a file, if a report can be made of it; else UnreadableResult."""
    try:
        result = read(path)
        if result.measurement is not None:
            low, high = result.measurement["ci95"]["step_time_s"]
            if result.status != "ok" or not result.measurement["step_time_s"] > 0 or not low <= high:
                raise ValueError("figures of a run that is not ok, or that can't be")
        overview([result])
        records([result])
        if shown is not None:
            shown(result)
    except UnreadableResult:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        # The shape is a result's and what is in it isn't: somebody's hand, or another program.
        raise UnreadableResult(f"{path} is not a result of mfubench: {type(error).__name__}: {error}") from error
    return result


def _run(result: Result) -> str:
    """What two copies of a run share, and no two runs do: when it started, where, and with what settings."""
    return json.dumps([result.started_at, result.provenance.get("folder"), result.settings], sort_keys=True)
