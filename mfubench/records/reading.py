"""Read a records folder into Records: step boundaries, micro-batches and work of every rank. Pure but for reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mfubench.records.rank_events import Event, RankEvents


@dataclass(frozen=True)
class MicroBatch:
    """The input of one training forward; a token count that isn't known is None."""

    batch_size: int
    sequence_length: int
    real_tokens: int | None  # with attention mask 1
    trained_tokens: int | None  # label != -100
    checksum: int | None = field(default=None, compare=False)  # of the token ids
    targets: int | None = field(default=None, compare=False)  # trained tokens that a position predicts: not the first


@dataclass(frozen=True)
class StepFlops:
    """The FLOPs of one step, its operators counted while it ran."""

    flops: int | None  # None: torch.compile ran, so most operators were not seen
    by_operator: Mapping[str, int]
    uncounted: Mapping[str, int]  # possible matrix products without a formula, with their shapes -> calls
    micro_batches: tuple[MicroBatch, ...]


@dataclass(frozen=True)
class RankRecord:
    """The record of one process: n complete step periods between n + 1 boundaries.

    A boundary is the first training forward of an optimizer step, or the start of its optimizer if forwards are out of sight:
    then micro-batches are those that DataLoaders returned, none if they aren't known either. On a device with its own clock,
    a period is complete once that clock has confirmed its end.
    """

    rank: int
    pid: int
    boundaries_s: tuple[float, ...]  # the host's monotonic clock
    wall_boundaries_s: tuple[float, ...]  # the same boundaries by the time of day
    device_step_times_s: tuple[float, ...] | None  # None on a CPU
    micro_batches: tuple[tuple[MicroBatch, ...], ...]  # of each period
    peak_memory_bytes: int | None
    memory_kind: str | None  # cuda_max_allocated | process_peak_rss
    work: Mapping[str, Any]  # probe/describe.py; empty before the second step
    versions: Mapping[str, str]  # of every distribution in the framework's environment
    errors: tuple[str, ...]
    # Of each period: tensors with a gradient, and outermost module calls in the backward passes.
    gradient_and_recompute_counts: tuple[tuple[int, int], ...] = ()
    step_flops: StepFlops | None = None  # of one warm-up step, if the probe counts it
    to_optimizer_s: tuple[float | None, ...] = ()  # of each period, by the clock of `step_times_s`; None: not known
    data_waits_s: tuple[float | None, ...] = ()  # of each period: in DataLoaders, by the host's clock; None: not known
    probe_times_s: tuple[float, ...] = ()  # of each period: the probe's own, by the host's clock
    device_heard_s: tuple[float, ...] = ()  # of each period: when the host heard of its end, by its monotonic clock
    # Of each step, of each micro-batch: the scalar on which backward() was called; None: not read, or not known.
    losses: tuple[tuple[float | None, ...] | None, ...] = ()
    boundary: str = "forward"  # forward | optimizer
    node: str | None = None  # its name; None: the run has one host

    @property
    def step_times_s(self) -> tuple[float, ...]:
        """Seconds of each period, by the device's clock if it has one, else by the host's."""
        return self.host_step_times_s if self.device_step_times_s is None else self.device_step_times_s

    @property
    def host_step_times_s(self) -> tuple[float, ...]:
        """Seconds of each period by the host's monotonic clock."""
        return tuple(after - before for before, after in pairwise(self.boundaries_s))


@dataclass(frozen=True)
class Records:
    """All processes that trained, by rank; `errors` are of processes whose probe failed before any training."""

    ranks: tuple[RankRecord, ...]
    errors: tuple[str, ...] = ()


def read_records(folder: Path) -> Records:
    """Read everything recorded so far; a file ends at a line torn by its writer's death. Empty if nothing was recorded."""
    series = [_events_in(path) for path in sorted(folder.glob("rank*.jsonl"))]
    ranks = [_rank(events, events.start) for events in series if events.start]
    errors = (error for path in sorted(folder.glob("errors.*.jsonl")) for error in _events_in(path).errors)
    return Records(tuple(sorted(ranks, key=lambda rank: (rank.rank, rank.pid))), tuple(errors))


def _events_in(path: Path) -> RankEvents:
    series = RankEvents()
    series.read(path.read_bytes())
    return series


def _rank(series: RankEvents, start: Mapping[str, Any]) -> RankRecord:
    boundaries = series.boundaries[: series.periods + 1]
    periods = series.device_periods if series.on_device else None
    befores = [boundary["before"] for boundary in boundaries[1:]]
    by_optimizer = bool(boundaries) and boundaries[0]["event"] == "boundary"
    to_optimizer = [
        _seconds_between(before["optimizer_t"], since["t"]) for since, before in zip(boundaries, befores, strict=False)
    ]
    return RankRecord(
        rank=start["rank"],
        pid=start["pid"],
        boundaries_s=tuple(forward["t"] / 1e9 for forward in boundaries),
        wall_boundaries_s=tuple(forward["w"] / 1e9 for forward in boundaries),
        device_step_times_s=None if periods is None else tuple(period.period_s for period in periods),
        micro_batches=tuple(_micro_batches(step, end) for step, end in pairwise(series.measured[: series.periods + 1])),
        peak_memory_bytes=series.peak_memory_bytes,
        memory_kind=series.memory_kind,
        work=series.work,
        versions=start["versions"],
        errors=tuple(series.errors),
        gradient_and_recompute_counts=tuple((before["gradients"], before["recomputed_calls"]) for before in befores),
        step_flops=_step_flops(series),
        to_optimizer_s=(None,) * series.periods
        if by_optimizer
        else tuple(to_optimizer if periods is None else (period.to_optimizer_s for period in periods)),
        data_waits_s=tuple(_seconds_between(before["loading_ns"]) for before in befores),
        probe_times_s=tuple(before["probe_ns"] / 1e9 for before in befores),
        device_heard_s=() if periods is None else tuple(period.heard_s for period in periods),
        losses=tuple(None if losses is None else tuple(losses) for losses in series.losses),
        boundary="optimizer" if by_optimizer else "forward",
        node=start.get("node"),
    )


def _seconds_between(until_ns: int | None, since_ns: int = 0) -> float | None:
    return None if until_ns is None else (until_ns - since_ns) / 1e9


def _step_flops(series: RankEvents) -> StepFlops | None:
    counted = series.flops
    if counted is None:
        return None
    steps = [step for step in series.forwards if step[0]["event"] == "forward"]
    forwards = [forward for step in steps for forward in step if forward["step"] == counted["step"]]
    batches = tuple(_micro_batch(forward) for forward in forwards)
    return StepFlops(counted["flops"], counted["by_operator"], counted["uncounted"], batches)


def _micro_batches(step: list[Event], end: list[Event]) -> tuple[MicroBatch, ...]:
    """The micro-batches of a step: its forwards, or the batches that the optimizer's boundary at its end lists."""
    if end[0]["event"] == "boundary":
        return tuple(
            MicroBatch(batch, sequence, real, trained, ids, targets)
            for (batch, sequence), (real, trained, targets, ids) in end[0]["batches"]
        )
    return tuple(map(_micro_batch, step))


def _micro_batch(forward: Mapping[str, Any]) -> MicroBatch:
    batch, sequence = forward["shape"]
    return MicroBatch(batch, sequence, forward["real"], forward["trained"], forward.get("ids"), forward.get("targets"))


class Follower:
    """Follow the records in `folder`, which may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ranks: dict[str, RankEvents] = {}
        self._read_bytes: Counter[str] = Counter()  # of whole lines, by file name

    def poll(self) -> Mapping[str, RankEvents]:
        """Read what is new; return the events so far by file name: `rank0`, `rank1`, ..."""
        for path in sorted(self._folder.glob("rank*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read_bytes[path.stem])
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the writer may be in the middle of a line
            self._read_bytes[path.stem] += len(whole)
            self._ranks.setdefault(path.stem, RankEvents()).read(whole)
        return self._ranks
