"""Result ↔ result.json, the only source of truth for everything downstream. Written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mfubench.config.vocabulary import GROUPS, OUTSIDE_THE_WORK
from mfubench.files.whole import write_whole

SCHEMA_VERSION = 3
FILE_NAME = "result.json"
NUMBERS = re.compile(r"([0-9]+)")

# What the report reads without looking: list: of mappings; None: or null.
SHAPES: dict[str, tuple[type | None, ...]] = {
    **dict.fromkeys(("name", "framework", "status", "started_at"), (str,)),
    **dict.fromkeys(("engine", "reason", "stopped_by", "group"), (str, None)),
    "settings": (dict,),
    "provenance": (dict,),
    "conventions": (dict,),
    "step_times_s": (dict,),
    **dict.fromkeys(("hardware", "flops", "work", "plan", "outcome", "measurement", "withheld"), (dict, None)),
    **dict.fromkeys(("differences", "history", "conditions", "warnings"), (list,)),
}


class UnreadableResult(ValueError):
    """A file named result.json that is torn, foreign, or of another schema version."""


@dataclass(frozen=True)
class Result:
    """One run: its settings, the work done, the figures, and the source of each figure.

    The mappings hold JSON values. Only a run whose status is `ok` has a `measurement`; the figures of others, if any, are
    under `withheld`.
    """

    name: str  # framework[-engine]-model-mode-parallelism-checkpointing-bs
    framework: str  # as readers are shown it: with its engine, unless that is the framework's own program
    engine: str | None  # which of the framework's engines ran; None: it has no several, or none was found
    status: str
    reason: str | None  # why it isn't ok
    stopped_by: str | None  # mfubench (enough was recorded) | user | None: the framework ended by itself
    group: str | None  # the sweep
    started_at: str  # ISO 8601, UTC
    settings: Mapping[str, Any]  # the experiment as asked: `auto` and the framework's ${...} stand as they are
    hardware: Mapping[str, Any] | None  # device, count, peak, where the peak is from
    flops: Mapping[str, Any] | None  # per optimizer step and device
    work: Mapping[str, Any] | None  # what the probe saw on the measured rank
    differences: Sequence[Mapping[str, str]]  # what was asked and not seen
    measurement: Mapping[str, Any] | None
    withheld: Mapping[str, Any] | None
    step_times_s: Mapping[str, Sequence[float]]  # by rank, warm-up included
    history: Sequence[Mapping[str, float]]  # a row per step period of the measured rank, warm-up included
    conditions: Sequence[Mapping[str, Any]]  # of each watched device: clocks, power, heat, errors, who else was there
    warnings: Sequence[Mapping[str, str]]  # kind (measure/run_warnings.py has the closed set) and text
    conventions: Mapping[str, str]  # what each figure means
    plan: Mapping[str, Any] | None  # command, environment, native config
    outcome: Mapping[str, Any] | None  # how the processes ended, the log's last lines
    provenance: Mapping[str, Any]  # versions, platform, commit
    schema_version: int = SCHEMA_VERSION


def write_result(result: Result, folder: Path) -> Path:
    """Write result.json in the folder, whole or not at all. Raises OSError, and ValueError for a figure that is no number."""
    path = folder / FILE_NAME
    write_whole(path, json.dumps(asdict(result), indent=1, allow_nan=False))
    return path


def read_result(path: Path) -> Result:
    """The result in a file; UnreadableResult says what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise UnreadableResult(f"{path} can't be read: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise UnreadableResult(f"{path} has schema_version {version!r}; this mfubench reads {SCHEMA_VERSION}")
    names = {field.name for field in fields(Result)}
    if names != content.keys():
        odd = ", ".join(sorted(names ^ content.keys()))
        raise UnreadableResult(f"{path} is not a result of mfubench: {odd} missing or unknown")
    if odd := ", ".join(name for name, kind in SHAPES.items() if not _is(content[name], kind)):
        raise UnreadableResult(f"{path} is not a result of mfubench: {odd} of another shape")
    groups = (group for group in GROUPS if group not in OUTSIDE_THE_WORK)
    if lacking := [group for group in groups if not isinstance(content["settings"].get(group), dict)]:
        raise UnreadableResult(f"{path} is not a result of mfubench: its settings lack {', '.join(lacking)}")
    return Result(**content)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no figure")


def _is(value: Any, kinds: tuple[type | None, ...]) -> bool:
    if isinstance(value, list):
        return list in kinds and all(isinstance(each, dict) for each in value)
    return (value is None and None in kinds) or any(kind is not None and isinstance(value, kind) for kind in kinds)


def find_results(folders: Iterable[Path]) -> Iterator[Path]:
    """Every result.json in or below the folders, in the order of their runs."""
    for folder in folders:
        yield from sorted(folder.rglob(FILE_NAME), key=_in_run_order) if folder.is_dir() else [folder]


def _in_run_order(path: Path) -> list[tuple[int, str]]:
    """Job 10 of a sweep comes after job 9, and 9-2, which took the place of a job 9 that wasn't ok, between them."""
    words = [word for part in path.parts for word in NUMBERS.split(part)]
    return [(int(word), "") if NUMBERS.fullmatch(word) else (-1, word) for word in words]
