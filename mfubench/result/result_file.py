"""Read and write result.json, the only source of truth for everything downstream. Written whole or not at all.

The dataclass is the file format: docs/result.schema.json is made of it. A result of an earlier schema is brought to today's
when it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfubench.config.vocabulary import GROUPS, GROUPS_WITH_OPTIONS, OUTSIDE_THE_WORK
from mfubench.explain.explanation import Explanation
from mfubench.files.whole import write_whole
from mfubench.flops.counts import FlopCount, SecondCount
from mfubench.hardware.conditions import CpuConditions, GpuConditions
from mfubench.launch.outcome import Outcome
from mfubench.measure.figures import Figures, InSitu, RunWarning
from mfubench.plan.plan import PlanFile
from mfubench.records.expected import Difference

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA_VERSION = 6
FILE_NAME = "result.json"
NUMBERS = re.compile(r"([0-9]+)")


class UnreadableResult(ValueError):
    """A file named result.json that is torn, foreign, or of a schema version that can't be read."""


@dataclass(frozen=True)
class FoundHardware:
    """The devices of a run and their peaks."""

    device: str  # cpu | cuda
    device_name: str
    num_devices: int  # visible GPUs; on a CPU the cores this process may use
    cores: int  # of the CPU that this process may use
    supports_bf16: bool
    driver: str | None
    memory_bytes: int | None  # per device
    uuids: tuple[str, ...]
    precision: str  # resolved
    peak_flops_per_second: float | None  # dense; None: the run ended before it was known
    peak_dtype: str | None
    peak_source: str | None
    peak_measured: bool | None
    ceiling_flops_per_second: float | None  # the largest matmul rate measured; None: none was
    ceiling_source: str | None
    peak_relative_half_width: float | None = None  # of its 95 % interval; 0: it isn't measured; None: schema 3


@dataclass(frozen=True)
class Provenance:
    """The software and the command behind a result."""

    folder: str
    mfubench: str  # version
    commit: str | None
    python: str
    platform: str
    counted_with: Mapping[str, str]  # package → version, in mfubench's own environment
    framework_environment: Mapping[str, str]  # of every distribution in the framework's environment
    data: Mapping[str, Any] | None
    identity: Mapping[str, Any]
    overrides: tuple[str, ...] | None = None  # as given on the command line; None: not kept (schema 3)


@dataclass(frozen=True)
class Result:
    """One run: its settings, the work done, the figures, and the source of each figure.

    Only a run whose status is `ok` has a `measurement`; the figures of others, if any, are under `withheld`.
    """

    status: str
    reason: str | None  # why it isn't ok
    name: str  # framework[-engine]-model-mode, and what its sweep varies
    measurement: Figures | None
    settings: Mapping[str, Any]  # the experiment as asked: `auto` and the framework's ${...} stand as they are
    framework: str  # as readers are shown it: with its engine, unless that is the framework's own program
    engine: str | None  # which of the framework's engines ran; None: it has no several, or none was found
    stopped_by: str | None  # mfubench (enough was recorded) | user | None: the framework ended by itself
    group: str | None  # the sweep
    started_at: str  # ISO 8601, UTC
    hardware: FoundHardware | None
    flops: FlopCount | None  # per optimizer step and device
    second_count: SecondCount | None  # of the same step; None: this model or mode has no analytic count
    in_situ: InSitu | None  # the count of one warm-up step in the framework's process; None: there was none
    work: Mapping[str, Any] | None  # as the probe describes it on the measured rank
    differences: tuple[Difference, ...]  # from what was expected
    withheld: Figures | None
    warnings: tuple[RunWarning, ...]
    conditions: tuple[GpuConditions | CpuConditions, ...]  # of each device
    outcome: Outcome | None  # how the processes ended, the log's last lines
    plan: PlanFile | None
    provenance: Provenance
    conventions: Mapping[str, str]  # what each figure means
    step_times_s: Mapping[str, tuple[float, ...]]  # by rank, warm-up included
    history: tuple[Mapping[str, float], ...]  # a row per step period of the measured rank, warm-up included
    step_boundary: str | None = None  # where the measured rank's steps begin: forward | optimizer; None: schema 4
    explanation: Explanation | None = None  # of the step time; None: there is none (schema 5: none was made)
    no_explanation: str | None = None  # why, where a profile was asked for
    nodes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # name → its ranks; {}: one host
    unwatched_nodes: tuple[str, ...] = ()  # on which nobody looked at the devices
    schema_version: int = SCHEMA_VERSION


def write_result(result: Result, folder: Path) -> Path:
    """Write result.json in the folder, whole or not at all. Raises OSError, and ValueError for a figure that is no number."""
    path = folder / FILE_NAME
    write_whole(path, json.dumps(asdict(result), indent=1, allow_nan=False))
    return path


def read_result(path: Path) -> Result:
    """Return the result in a file. Raises UnreadableResult, which says what is wrong with the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableResult(f"{path} can't be read: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in range(3, SCHEMA_VERSION + 1):
        raise UnreadableResult(f"{path} has schema_version {version!r}; this mfubench reads 3 to {SCHEMA_VERSION}")
    try:
        return from_content((_from_schema_3(content) if version == 3 else content) | {"schema_version": SCHEMA_VERSION})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnreadableResult(f"{path} is not a result of mfubench: {_in_one_line(error)}") from error


def from_content(content: Mapping[str, Any]) -> Result:
    """Return the result of JSON's values. Raises ValueError if a field is missing, of another type, or contradicts others."""
    text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")  # a log may hold halves of characters
    result = adapter().validate_json(text, strict=True)
    for group in (group for group in GROUPS if group not in OUTSIDE_THE_WORK):
        own = result.settings.get(group)
        if not isinstance(own, dict) or (group in GROUPS_WITH_OPTIONS and not isinstance(own.get("name"), str)):
            raise ValueError(f"its settings lack {group}")
    for setting in ("repeat", "batch_size"):
        if type(result.settings.get(setting)) is not int:
            raise ValueError(f"settings.{setting} is {result.settings.get(setting)!r}; expected a number")
    if not all({"step_time_s", "warmup"} <= row.keys() for row in result.history):
        raise ValueError("a row of its history has no step time")
    measured = result.measurement
    if measured is not None and not (
        result.status == "ok" and measured.step_time_s > 0 and _in_order(measured) and _has_mfu(result, measured)
    ):
        raise ValueError("figures of a run that is not ok, or that can't be")
    return result


@cache
def adapter() -> TypeAdapter[Result]:
    """Return pydantic's reader of results, which gives their JSON schema, too."""
    from pydantic import TypeAdapter  # 60 ms, which --help doesn't need

    return TypeAdapter(Result)


def _has_mfu(result: Result, measured: Figures) -> bool:
    """Return False if the MFU is missing though the FLOP/s and the peak are known."""
    peak = result.hardware.peak_flops_per_second if result.hardware else None
    return measured.mfu is not None or None in (measured.model_tflops_per_second_per_device, peak)


def _in_order(measured: Figures) -> bool:
    low, high = measured.ci95.get("step_time_s", (0.0, None))
    return high is None or low <= high


def _from_schema_3(content: dict[str, Any]) -> dict[str, Any]:
    """Bring a result of schema 3 to today's: the two other counts were among the FLOPs, overrides weren't kept."""
    flops = content["flops"] or {}
    second = flops.get("second_count")
    counts = None if second is None else {"figures": {"uncounted": {}, **second}, "apart": second["apart"]}
    return content | {"in_situ": flops.get("in_situ"), "second_count": counts}


def _in_one_line(error: Exception) -> str:
    """Return pydantic's first complaint, or the error's own text."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return f"{error}"
    first, *others = error.errors(include_url=False, include_input=False)
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" + (f", and {len(others)} more" if others else "")


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no figure")


def find_results(folders: Iterable[Path]) -> Iterator[Path]:
    """Every result.json in or below the folders, in the order of their runs."""
    for folder in folders:
        yield from sorted(folder.rglob(FILE_NAME), key=_in_run_order) if folder.is_dir() else [folder]


def _in_run_order(path: Path) -> list[tuple[int, str]]:
    """Job 10 of a sweep comes after job 9, and 9-2, which took the place of a job 9 that wasn't ok, between them."""
    words = [word for part in path.parts for word in NUMBERS.split(part)]
    return [(int(word), "") if NUMBERS.fullmatch(word) else (-1, word) for word in words]
