"""Read every result in and below some folders; a file that isn't one is reported in a sentence, and the rest go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mfubench.report.overview import overview
from mfubench.report.pooling import pool
from mfubench.report.ratios import compare
from mfubench.result.flat import run_records
from mfubench.result.result_file import FILE_NAME, Result, UnreadableResult, find_results, read_result

# Errors of readers of `settings` and `work`, which are free-form, if somebody else wrote them.
MALFORMED = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Gathered:
    """The results in and below some folders, and the files that are none."""

    results: tuple[Result, ...]  # every run once
    complaints: tuple[str, ...]  # a sentence for each folder without results and each file that is none
    copies: tuple[str, ...]  # a sentence for each file that holds a run which another one holds, too


def gather(folders: Sequence[Path]) -> Gathered:
    """Read the results in and below the folders, in order, each once."""
    results: list[Result] = []
    complaints: list[str] = []
    copies: list[str] = []
    runs: dict[str, Path] = {}
    seen: set[Path] = set()
    for folder in folders:
        if not folder.exists():
            complaints.append(f"there is no {folder}")
            continue
        paths = list(find_results([folder]))
        if not paths:
            complaints.append(f"no {FILE_NAME} in or below {folder}; `python -m mfubench` makes one")
        for path in (path for path in paths if path.resolve() not in seen):
            seen.add(path.resolve())
            try:
                result = _sound(path)
            except UnreadableResult as error:
                complaints.append(str(error))
                continue
            first = runs.setdefault(_run(result), path)
            if first is path:
                results.append(result)
            else:
                copies.append(f"{path} is the same run as {first}; it counts once")
    return Gathered(tuple(results), tuple(complaints), tuple(copies))


def _sound(path: Path) -> Result:
    """The result in a file, if a report can be made of it; else UnreadableResult."""
    try:
        result = read_result(path)
        overview([result])
        run_records([result])
        (alone,) = pool([result])
        if alone.ok:
            compare(alone, alone)
    except UnreadableResult:
        raise
    except MALFORMED as error:
        raise UnreadableResult(f"{path} is not a result of mfubench: {type(error).__name__}: {error}") from error
    return result


def _run(result: Result) -> str:
    """Return what identifies a run: when it started, in which folder, with what settings."""
    return json.dumps([result.started_at, result.provenance.folder, result.settings], sort_keys=True)
