"""Explain an observed run: its profile, where there is one, brought to the mean measured step and to the result's figures."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mfubench.config import Experiment
from mfubench.explain.exclusive import IDLE, exclusive
from mfubench.explain.explanation import Explanation, KernelTime
from mfubench.explain.kernels import computes_attention
from mfubench.explain.timeline import NoProfile, Timeline, timeline
from mfubench.explain.waterfall import Device, NoWaterfall, StepTime, Waterfall, Work, step_time, waterfall
from mfubench.flops.breakdown import ATTENTION, RECOMPUTATION_PHASE, hardware_flops
from mfubench.flops.step import profile_of
from mfubench.hardware.peaks import Peaks
from mfubench.measure import metrics
from mfubench.measure.measure import Measured, as_done
from mfubench.measure.observe import Observed
from mfubench.plan.prepare import Prepared
from mfubench.records.reading import Records

LISTED = 30  # kernels


def explain(prepared: Prepared, peaks: Peaks, observed: Observed, measured: Measured) -> Explanation | str | None:
    """Return the explanation of a run's mean step; the reason if there is none; None if none was asked for.

    The run is measured by now, so that nothing here may raise.
    """
    if not prepared.target.experiment.measurement.profile_steps or measured.measurement is None:
        return None
    records, rank = prepared.plan.records, measured.measurement.rank
    try:
        return _explanation(_profile(records, rank, observed), prepared, peaks, observed, measured)
    except (NoProfile, NoWaterfall) as error:
        return str(error)
    except Exception as error:
        return f"the profile of rank {rank} can't be read: {error!r}"


def tidy(prepared: Prepared, measured: Measured) -> None:
    """Move the measured rank's trace into the run folder, if there is one, and delete all other files of the profile."""
    for path in [*prepared.plan.records.glob("profile*.json"), *prepared.plan.records.glob("trace.rank*.json")]:
        if measured.measurement is not None and path.name == f"trace.rank{measured.measurement.rank}.json":
            path.replace(prepared.plan.folder / "trace.json")
        else:
            path.unlink()


def _profile(records: Path, rank: int, observed: Observed) -> dict[str, Any]:
    """Read a rank's file. Raises NoProfile if there is none."""
    path, outcome = records / f"profile.rank{rank}.json", observed.outcome
    if path.is_file():
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    how = {
        "itself": f"the framework ended: {outcome.signal or f'exit status {outcome.returncode}'}",
        "interrupted": "the user ended the run",
        "stopped": "the time for it was over",
    }.get(outcome.ended, outcome.why or outcome.ended)
    raise NoProfile(f"rank {rank} wrote no profile: {how}")


def _explanation(
    content: Mapping[str, Any], prepared: Prepared, peaks: Peaks, observed: Observed, measured: Measured
) -> Explanation:
    assert measured.measurement is not None
    began, step_s = time.monotonic(), measured.measurement.step_time_s
    device: Device = "cpu" if prepared.target.machine.device == "cpu" else "cuda"
    experiment, lines = prepared.target.experiment, timeline(content, device)
    spent = step_time(exclusive(lines.spans, lines.start, lines.end), lines.steps, step_s, device)
    found: Waterfall | None = None
    reason = None
    try:
        found = waterfall(spent, _work(content, spent, experiment, peaks, observed.records, measured), device)
    except NoWaterfall as error:
        reason = str(error)
    return Explanation(
        steps=lines.steps,
        profiled_step_s=(lines.end - lines.start) / lines.steps / 1e9,
        categories_s=spent.categories,
        profiled_idle_s=spent.profiled_idle,
        hidden_communication_s=spent.hidden_communication,
        kernels=_kernels(spent, lines),
        gaps=tuple(lines.gaps),
        waterfall=found,
        no_waterfall=reason,
        notes=tuple(_notes(lines, observed)),
        cost_s=_after_measured_s(prepared, observed, measured) + time.monotonic() - began,
    )


def _work(
    content: Mapping[str, Any],
    spent: StepTime,
    experiment: Experiment,
    peaks: Peaks,
    recorded: Records,
    measured: Measured,
) -> Work:
    """Return the FLOPs of the mean measured step and of the profiled ones; `content` is the measured rank's file."""
    found, flops = measured.measurement, measured.flops.flops
    assert found is not None and peaks.peak is not None and found.mfu is not None, "only a watched command lacks them"
    peak = peaks.peak.flops_per_second
    steps = metrics.steps_of_all(recorded, found.warmup_steps, found.steps)
    shapes = Counter((batch.batch_size, batch.sequence_length) for step in steps for batch in step)
    of_phase, of_operator = _executed(experiment, recorded, shapes)
    profiled, _ = _executed(experiment, recorded, Counter(map(tuple, content["shapes"])))
    in_kernels = any(computes_attention(kind) for kind in spent.kinds)
    device_steps = found.steps * len(recorded.ranks)
    return Work(
        model=flops["model_flops_causal"],
        hardware=flops["hardware_flops_causal"],
        recomputation=of_phase[RECOMPUTATION_PHASE] / device_steps,
        attention=of_operator[ATTENTION] / device_steps if in_kernels else 0.0,
        peak=peak,
        fastest_peak=peak,
        profiled=profiled.total() / (len(content["boundaries"]) - 1) or flops["hardware_flops_causal"],
        clock_ratio=found.mfu / found.mfu_at_clock if found.mfu_at_clock else None,
    )


def _executed(experiment: Experiment, recorded: Records, shapes: Counter[Any]) -> tuple[Counter[str], Counter[str]]:
    """Return the causal hardware FLOPs of micro-batches by phase and by operator; `shapes`: [batch, sequence] -> how many."""
    profile, skip_masked = profile_of(as_done(experiment, recorded)), not metrics.masks_seen(recorded)
    of_phase: Counter[str] = Counter()
    of_operator: Counter[str] = Counter()
    for shape, times in shapes.items():
        for (phase, operator, _), count in hardware_flops(profile, *shape, skip_masked=skip_masked).items():
            of_phase[phase] += times * count
            of_operator[operator] += times * count
    return of_phase, of_operator


def _kernels(spent: StepTime, lines: Timeline) -> tuple[KernelTime, ...]:
    """Return the kernels that take most."""
    largest = sorted((kind for kind in spent.kinds if kind != IDLE), key=lambda kind: -spent.kinds[kind])[:LISTED]
    return tuple(
        KernelTime(kind.name, kind.category, lines.calls.get(kind, 0) / lines.steps, spent.kinds[kind])
        for kind in largest
    )


def _notes(lines: Timeline, observed: Observed) -> Iterator[str]:
    """Yield what the profile couldn't see."""
    if lines.graphs:
        yield "kernels of replayed CUDA graphs have no operator: their categories are by their names alone"
    elif any(rank.work.get("compiled") for rank in observed.records.ranks):
        yield "code that torch.compile generated is one kernel for several operations: elementwise, if it is no other"


def _after_measured_s(prepared: Prepared, observed: Observed, measured: Measured) -> float:
    """Return the seconds from the last measured step's end until the framework was ended."""
    assert measured.measurement is not None and observed.outcome.started_s is not None
    boundaries = metrics.boundaries_here(observed.records, measured.measurement, prepared.target.nodes.here)
    ended_s = observed.outcome.started_s + observed.outcome.wall_s - observed.outcome.cleanup_s
    return ended_s - boundaries[measured.wanted.periods]
