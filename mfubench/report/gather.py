"""Folders → the results in them, and what is to be said of everything that is none. The rest is still reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfubench.measure.metric_table import METRICS
from mfubench.report.overview import overview
from mfubench.report.pooling import pool
from mfubench.report.ratios import compare
from mfubench.result.flat import run_records
from mfubench.result.result_file import FILE_NAME, Result, UnreadableResult, find_results, read_result

# Numbers that a report reads: those that it needs, and those that may be absent.
NEEDED = tuple(metric.name for metric in METRICS if metric.needed)
MAY_BE_ABSENT = tuple(metric.name for metric in METRICS if not metric.needed)
OF_HARDWARE = ("peak_flops_per_second", "ceiling_flops_per_second", "memory_bytes")
# What reading raises where the shape is a result's and what is in it isn't: somebody's hand, or another program.
MALFORMED = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Gathered:
    """The results in and below some folders, and the files that are none."""

    results: tuple[Result, ...]  # every run once
    complaints: tuple[str, ...]  # a sentence for each folder without results and each file that is none
    copies: tuple[str, ...]  # a sentence for each file that holds a run which another one holds, too


def gather(folders: Sequence[Path], shown: Callable[[Result], object] | None = None) -> Gathered:
    """Read the results in and below the folders, in order, each once.

    `shown` makes what the report shows of a result besides its row; a result for which it fails is a complaint.
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
        paths = list(find_results([folder]))
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
        result = read_result(path)
        _readable(result)
        overview([result])
        run_records([result])
        if shown is not None:
            shown(result)
    except UnreadableResult:
        raise
    except MALFORMED as error:
        raise UnreadableResult(f"{path} is not a result of mfubench: {type(error).__name__}: {error}") from error
    return result


def _readable(result: Result) -> None:
    """Raise ValueError, or a reading error, if a field the report needs is missing or not a number."""
    _numbers({key: result.settings[key] for key in ("repeat", "batch_size")}, ("repeat", "batch_size"))
    _numbers(result.hardware or {}, (), OF_HARDWARE)
    measured = result.measurement
    if measured is None:
        return
    _numbers(measured, NEEDED, MAY_BE_ABSENT)
    for low, high in measured["ci95"].values():
        _numbers({"low": low, "high": high}, (), ("low", "high"))
    for row in result.history:
        _numbers(row, ("step_time_s", "warmup"))
    for series in result.step_times_s.values():
        _numbers(dict(enumerate(series)), range(len(series)))
    low, high = measured["ci95"]["step_time_s"]
    if result.status != "ok" or not measured["step_time_s"] > 0 or not low <= high:
        raise ValueError("figures of a run that is not ok, or that can't be")
    (alone,) = pool([result])
    compare(alone, alone)


def _numbers(values: Mapping[Any, Any], needed: Iterable[Any], may_lack: Iterable[Any] = ()) -> None:
    """ValueError for the first that is no number; those that may be lacking may be None, too."""
    for name, value in [*((name, values[name]) for name in needed), *((name, values.get(name)) for name in may_lack)]:
        lacks = value is None and name in may_lack
        if not lacks and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{name} is {value!r}, which is no number")


def _run(result: Result) -> str:
    """Return what identifies a run: when it started, in which folder, with what settings."""
    return json.dumps([result.started_at, result.provenance.get("folder"), result.settings], sort_keys=True)
