"""A Result in; out what in it can't be right: every figure is worked out anew from the series, the settings and the peak.

What only the run's records could tell (shapes, boundaries of steps, what each rank did) was checked when it ran.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from mfubench.config import Experiment
from mfubench.config.vocabulary import GROUPS, OUTSIDE_THE_WORK
from mfubench.flops import FlopCount, step_flops
from mfubench.flops.profile import AMOUNTS
from mfubench.hardware.catalogue import known_peaks
from mfubench.measure.intervals import ratio_interval, summarize
from mfubench.measure.metric_table import StepWork, rates
from mfubench.measure.observe import rule_of
from mfubench.measure.steady_state import steadiness
from mfubench.measure.stopping_rule import enough_after
from mfubench.result import Result

TOLERANCE = 1e-6  # as a fraction: the same arithmetic, done again
ROWS = ("ok", "out_of_memory", "unsupported")  # a batch that doesn't fit is a result of its study; a crash is not


def problems(result: Result) -> Iterator[str]:
    """Yield the problems of a result, a sentence each. Counts its FLOPs, which takes seconds if they aren't cached."""
    commit = result.provenance.commit
    if not commit or str(commit).endswith("-dirty"):
        yield f"it was measured at commit {commit}; a reference result is of a commit without local changes"
    if result.status not in ROWS:
        yield f"its status is {result.status} ({result.reason}); a reference result is {', '.join(ROWS)}"
    if (result.measurement is not None) != (result.status == "ok"):
        yield f"a run that is {result.status} has {'figures' if result.measurement else 'none'}"
    if result.measurement is None or result.status != "ok":
        return
    yield from (f"{d.what}: asked {d.asked}, seen {d.seen}" for d in result.differences)
    try:
        experiment = experiment_of(result.settings)
    except ValueError as error:
        yield str(error)
        return
    yield from _problems_of_peak(result)
    yield from _series(result, experiment)
    yield from _problems_of_counts(result, experiment)
    yield from _recomputed(result, _tree(result.measurement))


def experiment_of(settings: Mapping[str, Any]) -> Experiment:
    """Return the experiment whose settings a result holds.

    Raises ValueError if they are not those of this version. A setting outside the work, such as a price, may be missing.
    """
    for kind, values, group in (
        (Experiment, settings, ""),
        *((kind, settings.get(name, {}), name) for name, kind in GROUPS.items()),
    ):
        known = {field.name for field in fields(kind)}
        odd = values.keys() - known if group in OUTSIDE_THE_WORK else values.keys() ^ known
        if odd:
            named = ", ".join(f"{group}.{key}" if group else key for key in sorted(odd))
            raise ValueError(f"its settings are not those of this version: {named} missing or unknown")
    return Experiment(**{**settings, **{name: group(**settings[name]) for name, group in GROUPS.items()}})


def _problems_of_peak(result: Result) -> Iterator[str]:
    hardware = _tree(result.hardware)
    stated, dtype, device = (hardware.get(key) for key in ("peak_flops_per_second", "peak_dtype", "device_name"))
    if hardware.get("device") == "cpu":
        if not hardware.get("peak_measured"):
            yield "its peak was given; that of a CPU is measured"
        return
    option = known_peaks(str(device))
    known = None if option is None else option.peaks.get(str(dtype))
    if known is None or not _close(stated, known):
        yield f"its peak is {stated} FLOP/s in {dtype}; conf/hardware has {known} for {device}"


def _series(result: Result, experiment: Experiment) -> Iterator[str]:
    """Check that the steady steps follow from the settings and the series, on the rank with the longest window."""
    stated, rule = _tree(result.measurement), rule_of(experiment.measurement)
    if len(result.step_times_s) != experiment.parallelism.num_devices:
        yield f"{len(result.step_times_s)} ranks have step times; asked for were {experiment.parallelism.num_devices}"
    series, rank = list(result.step_times_s.values()), str(stated["rank"])
    if rank not in result.step_times_s:
        yield f"rank {rank}, whose its figures are, has no step times"
        return
    recorded = min(map(len, series))
    # A user may end a run at any step after the least; the rest end where the rule says.
    periods, because = enough_after(series, rule) or (recorded, "user")
    if periods < rule.warmup + rule.least or stated["stopped_because"] != because:
        yield f"it has {recorded} steps and says that {stated['stopped_because']} ended it, which its settings don't make so"
        return
    first = max(steadiness(times[:periods], rule.warmup).start for times in series)
    if (stated["warmup_steps"], stated["steps"]) != (first, periods - first):
        yield (
            f"its figures are of {stated['steps']} steps after {stated['warmup_steps']} of warm-up; its settings and its "
            f"series make them {periods - first} after {first}"
        )
        return
    windows = {name: times[first:periods] for name, times in result.step_times_s.items()}
    longest = max(sum(window) for window in windows.values())
    if not _close(sum(windows[rank]), longest):
        yield f"its figures are of rank {rank}, whose steps took {sum(windows[rank]):.6g} s; another's took {longest:.6g} s"
    told = [row["step_time_s"] for row in result.history if not row["warmup"]]
    if told != list(windows[rank]):
        yield "its history has other step times than its series"


def _problems_of_counts(result: Result, experiment: Experiment) -> Iterator[str]:
    """FLOPs and positions of a step, counted anew from the settings."""
    stated, flops = _tree(result.measurement), _tree(result.flops)
    if experiment.comparison != "equal":
        yield "comparison=defaults: what the framework chose can't be counted from its settings"
        return
    lengths = {stated["sequence_length_min"], stated["sequence_length_max"]}
    if lengths != {experiment.sequence_length}:
        yield f"its sequences have {min(lengths)} to {max(lengths)} positions; a reference result has one shape of micro-batch"
        return
    positions = experiment.batch_size * experiment.sequence_length * experiment.gradient_accumulation_steps
    if stated["positions_per_step"] != positions:
        yield f"positions_per_step is {stated['positions_per_step']}; the settings make it {positions}"
    try:
        counted: FlopCount = step_flops(experiment)
    except ValueError as error:
        yield f"its FLOPs can't be counted: {error}"
        return
    for name in (*AMOUNTS, "parameters", "trainable_parameters"):
        # A kernel that was given a mask doesn't skip the half that causal attention leaves out.
        right = {getattr(counted, name)} | ({counted.hardware_flops} if name == "hardware_flops_causal" else set())
        if flops.get(name) not in right:
            yield f"flops.{name} is {flops.get(name)}; counted anew from the settings it is {getattr(counted, name)}"


def _recomputed(result: Result, stated: Mapping[str, Any]) -> Iterator[str]:
    """The figures that follow from the series, the FLOPs and the peak."""
    flops, peak = _tree(result.flops), _tree(result.hardware).get("peak_flops_per_second") or math.nan
    series = result.step_times_s.get(str(stated["rank"]), ())
    window = series[stated["warmup_steps"] : stated["warmup_steps"] + stated["steps"]]
    if len(window) < 2:
        yield f"{len(window)} measured steps have no mean and spread"
        return
    times = summarize(window)
    counted = {name: flops.get(name, math.nan) for name in AMOUNTS}
    amounts = rates(StepWork(stated["positions_per_step"], **counted, peak_flops_per_second=peak))
    right = {
        "step_time_s": times.mean,
        "step_time_s_median": times.median,
        "step_time_s_std": times.std,
        "step_time_s_min": times.minimum,
        "step_time_s_max": times.maximum,
        "relative_half_width": (times.ci95_high - times.mean) / times.mean,
    } | {name: amount / times.mean for name, amount in amounts.items()}
    for name, figure in right.items():
        if not _close(stated.get(name), figure):
            yield f"{name} is {stated.get(name)}; worked out anew it is {figure:.8g}"
    intervals: dict[str, tuple[float, float | None]] = {"step_time_s": (times.ci95_low, times.ci95_high)}
    # Every step is of one shape, and so is its work.
    intervals |= {name: ratio_interval([amount] * times.n, window) for name, amount in amounts.items()}
    for name, ends in intervals.items():
        told = stated["ci95"][name]
        if not all(said == end if end is None else _close(said, end) for said, end in zip(told, ends, strict=True)):
            yield f"the interval of {name} is {told[0]} to {told[1]}; worked out anew {ends[0]} to {ends[1]}"
    if right["hfu_causal"] > 1 and not _tree(result.hardware).get("peak_measured"):
        yield f"hfu_causal is {right['hfu_causal']:.3f}: more FLOP/s than the chip can do"


def _close(stated: object, right: float) -> bool:
    return isinstance(stated, int | float) and math.isclose(stated, right, rel_tol=TOLERANCE, abs_tol=1e-12)


def _tree(part: Any) -> dict[str, Any]:
    return asdict(part) if part is not None else {}
