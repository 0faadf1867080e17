"""Flatten a result into one record for CSV and JSON: a column per setting, figure and fact, its unit in the name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mfubench.config.vocabulary import OUTSIDE_THE_WORK
from mfubench.flops.counts import AMOUNTS
from mfubench.result.result_file import Result

Scalar = str | int | float | bool | None
NATIVE = "native"
COUNTED = (*AMOUNTS, "parameters")
SEEN = ("model", "trainable_parameters", "world_size", "recomputation", "linear_dtype", "compiled")


def run_records(results: Sequence[Result]) -> list[dict[str, Scalar]]:
    """Return one record for each run, all with the same columns; a missing value is None.

    `step_time_s` and the like are the measurement's own names, with `_ci95_low` and `_ci95_high` behind them; FLOPs are per
    optimizer step and device. Only a run whose status is ok has figures.
    """
    each = [dict(_columns(result)) for result in results]
    columns = dict.fromkeys(column for own in each for column in own)
    return [{column: own.get(column) for column in columns} for own in each]


def _columns(result: Result) -> Iterator[tuple[str, Scalar]]:
    yield from (
        ("name", result.name),
        ("status", result.status),
        ("reason", result.reason),
        ("warnings", ", ".join(dict.fromkeys(warning.kind for warning in result.warnings)) or None),
        ("sweep", result.group),
        ("started_at", result.started_at),
        ("framework", result.framework),
        ("engine", result.engine),
    )
    for key, value in result.settings.items():
        if key == "framework":
            yield from leaves({NATIVE: value.get(NATIVE) or {}}, f"{key}.")
        elif key not in OUTSIDE_THE_WORK:  # `hardware.` is the hardware found
            yield from leaves({key: value})
    yield from leaves({"hardware": asdict(result.hardware) if result.hardware else {}})
    measured = asdict(result.measurement) if result.measurement else {}
    intervals = measured.pop("ci95", {})
    for key, value in measured.items():
        yield from leaves({key: value})
        if key in intervals:
            yield f"{key}_ci95_low", intervals[key][0]
            yield f"{key}_ci95_high", intervals[key][1]
    yield from (result.explanation.figures if result.explanation and result.measurement else {}).items()
    yield "no_explanation", result.no_explanation
    yield from (
        (f"{key}_per_step" if key != "parameters" else key, getattr(result.flops, key, None)) for key in COUNTED
    )
    yield from ((f"seen.{key}", (result.work or {}).get(key)) for key in SEEN)
    yield "mfubench", result.provenance.mfubench
    yield "commit", result.provenance.commit
    yield "folder", result.provenance.folder


def at(tree: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path. Raises KeyError."""
    value: Any = tree
    for key in path.split("."):
        value = value[key]
    return value


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Scalar]]:
    """The scalars of a tree by their dotted names; a list is one of them, its items behind commas."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield f"{above}{key}", ", ".join(map(str, value))
        else:
            yield f"{above}{key}", value
