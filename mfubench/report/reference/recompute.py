"""Measure a result again from its series of step times, its device and its settings, and compare all its figures.

Memory, energy, shapes and what each rank did are in the run's records only; they were checked when it ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, replace
from typing import Any

from mfubench.config import Experiment
from mfubench.flops.step import step_flops
from mfubench.hardware.catalogue import known_peaks
from mfubench.hardware.peaks import Peak
from mfubench.measure.figures import Figures
from mfubench.measure.metrics import impossible, measurement_of, step_history
from mfubench.measure.observe import rule_of
from mfubench.measure.stopping_rule import enough_after
from mfubench.records.reading import MicroBatch, RankRecord, Records
from mfubench.result import Result
from mfubench.result.result_file import FoundHardware

TOLERANCE = 1e-6  # as a fraction: the same arithmetic, on another machine
STATUSES = ("ok", "out_of_memory", "unsupported")  # a batch that doesn't fit is a result of its study; a crash is not
LISTED = 8  # of the values that differ
# Figures that the series doesn't tell, those that a run adds to them, and the one that is a sentence, whose words may change.
RECORDED = (
    *("real_tokens_per_step", "trained_tokens_per_step", "padding_fraction", "peak_memory_bytes", "memory_kind"),
    *("data_wait_s", "forward_to_optimizer_s", "optimizer_to_forward_s", "probe_s", "steady_because"),
    *(field.name for field in fields(Figures) if field.default is not MISSING and field.name != "stopped_because"),
)


def problems(result: Result, experiment: Experiment, option: str) -> Iterator[str]:
    """Yield the problems of a result of this experiment on this option of conf/hardware, a sentence each."""
    commit, device = result.provenance.commit, result.hardware
    if not commit or commit.endswith("-dirty"):
        yield f"it was measured at commit {commit}; a reference result is of a commit without local changes"
    if result.status not in STATUSES:
        yield f"its status is {result.status} ({result.reason}); a reference result is {', '.join(STATUSES)}"
    if device and (own := _option_and_peak(device)[0]) != option:
        yield f"it is of {device.device_name}, which belongs into {own}/, not {option}/"
    if result.status != "ok":
        return
    yield from (f"{each.what}: asked {each.asked}, seen {each.seen}" for each in result.differences)
    try:
        right = dict(_values(asdict(measured_again(result, experiment))))
    except ValueError as error:
        yield f"it can't be measured again: {error}"
        return
    stated = dict(_values(asdict(result)))
    wrong = [name for name in {**right, **stated} if not _same(stated.get(name), right.get(name))]
    if wrong:
        listed = [f"{name} is {stated.get(name)}, measured again {right.get(name)}" for name in wrong[:LISTED]]
        yield "; ".join(listed) + (f"; and {len(wrong) - LISTED} more" if wrong[LISTED:] else "")


def measured_again(result: Result, experiment: Experiment) -> Result:
    """Return the result that the step times, the device and the experiment make. Takes seconds if FLOPs aren't cached.

    Raises ValueError if they make none.
    """
    series, device, measurement = result.step_times_s, result.hardware, result.measurement
    if device is None or measurement is None:
        raise ValueError("it is ok, and has no device or no figures")
    if experiment.comparison != "equal":
        raise ValueError("comparison=defaults: what the framework chose can't be counted from its settings")
    if len(series) != experiment.parallelism.num_devices:
        raise ValueError(f"{len(series)} ranks have step times; asked for were {experiment.parallelism.num_devices}")
    rule, recorded = rule_of(experiment.measurement), min(map(len, series.values()))
    # A user may end a run at any step after the least; the rest end where the rule says.
    periods, because = enough_after([*series.values()], rule) or (recorded, "user")
    if periods < rule.warmup + rule.least:
        raise ValueError(f"it has {recorded} steps; its settings ask for at least {rule.warmup + rule.least}")
    count = step_flops(experiment)
    if result.flops and result.flops.hardware_flops_causal == count.hardware_flops:
        count = replace(
            count, hardware_flops_causal=count.hardware_flops
        )  # a kernel that is given a mask skips nothing
    sequences = experiment.batch_size * experiment.gradient_accumulation_steps
    step = (MicroBatch(sequences, experiment.sequence_length, None, None),)  # all its micro-batches, which are alike
    ranks = (
        RankRecord(int(rank), 0, (), (), times, (step,) * len(times), None, None, {}, {}, ())
        for rank, times in series.items()
    )
    records, on_cpu = Records(tuple(ranks)), device.device == "cpu"
    flops_per_second, half_width = _option_and_peak(device)[1], device.peak_relative_half_width if on_cpu else None
    peak = Peak(flops_per_second, str(device.peak_dtype), str(device.peak_source), on_cpu, half_width or 0.0)
    figures = measurement_of(records, lambda *_: count, peak, rule.warmup, periods - rule.warmup)
    as_stated = {name: getattr(measurement, name) for name in RECORDED}
    return replace(
        result,
        measurement=replace(figures, stopped_because=because, **as_stated),
        hardware=replace(device, peak_flops_per_second=flops_per_second, peak_measured=on_cpu),
        flops=count,
        differences=(*result.differences, *impossible(figures, count, peak)),
        history=tuple(step_history(records, lambda *_: count, peak, figures)),
    )


def _option_and_peak(device: FoundHardware) -> tuple[str | None, float]:
    """Return a device's option of conf/hardware and its peak there, NaN if it has none; of a CPU, the measured peak."""
    if device.device == "cpu":
        return "cpu", device.peak_flops_per_second or math.nan
    known = known_peaks(device.device_name)
    return (known.name, known.peaks.get(str(device.peak_dtype), math.nan)) if known else (None, math.nan)


def _values(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested mappings and lists by their dotted names."""
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _values(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def _same(stated: Any, right: Any) -> bool:
    if isinstance(right, float) and isinstance(stated, int | float):
        return math.isclose(stated, right, rel_tol=TOLERANCE, abs_tol=1e-12)
    return bool(stated == right)
