"""Collect the folds of a page: settings, work, every figure, provenance; what all runs share stands once."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mfubench.config.errors import COMMAND, key_of
from mfubench.config.vocabulary import UNMEASURED
from mfubench.report.html.step_time import profile_tables
from mfubench.report.section import Section
from mfubench.report.settings import describe
from mfubench.result.result_file import Result

LAST_LINES = 15  # of the log of a run that isn't ok

Table = Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A run's folds; tables are of two columns, and hold what it doesn't share with all other runs."""

    name: str
    result: Result
    tables: Mapping[str, Table]  # by heading
    figures: Sequence[tuple[str, str, str]]  # name, value, 95 % interval
    profile: Sequence[Section]
    files: Mapping[str, str]  # what the framework was given to read
    last_lines: Sequence[str]
    command: str


@dataclass(frozen=True)
class Details:
    """The folds of all runs; what these share, by heading; and what the figures mean, in the results' own words."""

    shared: Mapping[str, Table]
    runs: Sequence[Run]
    conventions: Table


def details(results: Sequence[Result], names: Sequence[str]) -> Details:
    """The folds of some results by their names."""
    asked = describe(results)
    tables = [
        {
            "Asked": own,
            "Seen in the framework's process": _flat(result.work),
            "How it was measured": _told(_tree(result.measurement)),
            "Where its time goes": _flat(result.explanation.figures if result.explanation else None),
            "FLOPs of a step on one device": _flat(_counts(result)),
            "Hardware": _flat(_tree(result.hardware)),
            "Conditions": _conditions([*map(_tree, result.conditions)]),
            "Provenance": _flat(_tree(result.provenance)),
        }
        for result, own in zip(results, asked, strict=True)
    ]
    headings = list(tables[0])
    shared = {heading: _shared([own[heading] for own in tables]) for heading in headings}
    return Details(
        {heading: table for heading, table in shared.items() if table},
        [
            Run(
                name=name,
                result=result,
                tables={heading: _without(own[heading], shared[heading]) for heading in headings},
                figures=list(_figures(_tree(result.measurement))),
                profile=profile_tables(result.explanation) if result.explanation else (),
                files=_files(result),
                last_lines=result.outcome.log_tail[-LAST_LINES:] if result.outcome and result.status != "ok" else (),
                command=_command(result.provenance.overrides),
            )
            for name, result, own in zip(names, results, tables, strict=True)
        ],
        _conventions(results),
    )


def _conventions(results: Sequence[Result]) -> Table:
    """Return the definition of each figure; all of them, if results of several versions differ."""
    meanings: dict[str, dict[str, None]] = {}
    for result in results:
        for name, meaning in _flat(result.conventions).items():
            meanings.setdefault(name, {})[meaning] = None
    return {name: " · in other results: ".join(found) for name, found in meanings.items()}


def _conditions(devices: Sequence[Mapping[str, Any]]) -> Table:
    """Return the conditions by name, numbered if there are several devices."""
    return {
        f"{number}: {key}" if len(devices) > 1 else key: cell
        for number, device in enumerate(devices)
        for key, cell in _flat(device).items()
    }


def _shared(tables: Sequence[Table]) -> Table:
    """Return the keys with one value in all tables that have any; a run that never began has none."""
    first, *others = [table for table in tables if table] or [{}]
    return {key: cell for key, cell in first.items() if cell and all(own.get(key) == cell for own in others)}


def _without(table: Table, shared: Table) -> Table:
    return {key: cell for key, cell in table.items() if cell and key not in shared}


def _flat(tree: Mapping[str, Any] | None) -> dict[str, str]:
    """Leaves by their path, in words; mappings of plain values, such as packages' versions, are one leaf."""
    found: dict[str, str] = {}
    for key, value in (tree or {}).items():
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping | list) for inner in value.values()):
            found |= {f"{key}.{inner}": cell for inner, cell in _flat(value).items()}
        else:
            found[key] = _in_words(value)
    return found


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_in_words(inner)}" for key, inner in sorted(value.items()))
    if isinstance(value, list | tuple):
        return "; ".join(map(_in_words, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _told(measurement: Mapping[str, Any]) -> Table:
    """Return the measurement's fields that are not numbers."""
    return _flat({name: value for name, value in measurement.items() if isinstance(value, str | bool)})


def _figures(measurement: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    intervals = measurement.get("ci95", {})
    for name, value in measurement.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = intervals.get(name, (None, None))
            interval = "" if low is None else f"{_in_words(low)} to {_in_words(high) or 'no end'}"
            yield name, _in_words(value), interval


def _files(result: Result) -> dict[str, str]:
    """The command that was run and the files it read, by name."""
    plan = result.plan
    if plan is None:
        return {}
    return {"command": shlex.join(plan.command), plan.config_file: plan.config, **plan.other_files}


def _command(overrides: Sequence[str] | None) -> str:
    """Return the command that repeats a run elsewhere, less its folder and what doesn't change the run; empty if unknown."""
    if overrides is None:
        return ""
    kept = [each for each in overrides if not key_of(each).startswith(("hydra.", *UNMEASURED))]
    return shlex.join([*shlex.split(COMMAND), *kept])


def _tree(part: Any) -> dict[str, Any]:
    """Return the fields of a part of the result; none if it wasn't reached."""
    return asdict(part) if part is not None else {}


def _counts(result: Result) -> dict[str, Any]:
    counts = {"second_count": result.second_count, "in_situ": result.in_situ}
    return _tree(result.flops) | {name: asdict(count) for name, count in counts.items() if count is not None}
