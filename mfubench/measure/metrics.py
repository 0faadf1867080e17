"""Work out a run's figures: step time, rates and the four utilisations, with their intervals.

The work of a step is the sum over its recorded micro-batches, each counted at its own shape.
MFU = model FLOPs / (step time x peak): the FLOPs that the mode needs, without recomputation (the PaLM convention, Chowdhery
et al. 2022, appendix B). HFU = hardware FLOPs / (step time x peak): the FLOPs executed, recomputation included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from math import isnan, nan
from statistics import fmean
from typing import Any

from mfubench.flops.counts import AMOUNTS, FlopCount
from mfubench.hardware.conditions import Conditions, GpuConditions
from mfubench.hardware.peaks import Ceiling, Peak
from mfubench.measure.figures import Figures
from mfubench.measure.intervals import MIN_STEPS, Summary, ratio_interval, summarize, widened
from mfubench.measure.metric_table import BY_NAME, STEP_RATES, StepWork, rates, rounded
from mfubench.measure.steady_state import steadiness
from mfubench.measure.step_breakdown import step_breakdown
from mfubench.records.expected import Difference
from mfubench.records.reading import MicroBatch, RankRecord, Records

Counted = Callable[[int, int], FlopCount]  # [batch, sequence] of a micro-batch -> its FLOPs

MEASURED_PEAK_TOLERANCE = 1.05


def measurement_of(records: Records, flops: Counted, peak: Peak | None, warmup_steps: int, steps: int) -> Figures:
    """Work out the figures of the steady steps among the first `warmup_steps` + `steps` periods.

    Args:
        records: of every rank.
        flops: counts a micro-batch of a shape on one device.
        peak: of one device; None: not known.
        warmup_steps: periods that are never measured.
        steps: periods after them; fewer if fewer were recorded.

    Raises:
        ValueError: fewer than two steady periods were recorded.
    """
    periods = min([warmup_steps + steps, *(len(rank.step_times_s) for rank in records.ranks)])
    found = {rank.rank: steadiness(rank.step_times_s[:periods], warmup_steps) for rank in records.ranks}
    latest = max(found.values(), key=lambda each: each.start, default=steadiness((), warmup_steps))
    windows = {rank.rank: rank.step_times_s[latest.start : periods] for rank in records.ranks}
    rank = max(windows, key=lambda r: sum(windows[r]), default=0)
    rest = steadiness(windows.get(rank, ()))  # of the steps that are measured, whichever rank was steady last
    times = summarize(windows.get(rank, ()))
    longest = sum(windows[rank])
    recorded = of_rank(records, rank)
    together = steps_of_all(records, latest.start, times.n)
    ranks = len(windows)
    work = [_work(step, flops, peak) for step in together]
    amounts = {name: [step[name] / ranks for step in work] for name in work[0] if not any(isnan(s[name]) for s in work)}
    batches = [batch for step in together for batch in step]
    lengths = [batch.sequence_length for batch in batches]
    positions = _positions(batches) / times.n / ranks
    real = _tokens_per_step([batch.real_tokens for batch in batches], times.n * ranks)
    told = [each.settled for each in found.values()]
    figures: dict[str, Any] = {name: sum(amounts[name]) / longest if name in amounts else None for name in work[0]}
    return Figures(
        steps=times.n,
        warmup_steps=latest.start,
        steady_because=next((each.because for each in found.values() if each.settled is False), latest.because),
        settled=None if None in told else all(told),
        drift=rest.drift,
        rank=rank,
        rank_spread=(longest - min(sum(w) for w in windows.values())) / longest,
        step_time_s=times.mean,
        relative_half_width=(times.ci95_high - times.mean) / times.mean if times.n >= MIN_STEPS else None,
        step_time_s_median=times.median,
        step_time_s_std=times.std,
        step_time_s_min=times.minimum,
        step_time_s_max=times.maximum,
        **figures,
        ci95=_intervals(times, amounts, windows[rank], peak),
        positions_per_step=round(positions),
        sequence_length_min=min(lengths),
        sequence_length_mean=sum(lengths) / len(lengths),
        sequence_length_max=max(lengths),
        real_tokens_per_step=real,
        trained_tokens_per_step=_tokens_per_step([batch.trained_tokens for batch in batches], times.n * ranks),
        padding_fraction=None if real is None else 1 - real / positions,
        peak_memory_bytes=max((r.peak_memory_bytes for r in records.ranks if r.peak_memory_bytes), default=None),
        memory_kind=recorded.memory_kind,
        **asdict(step_breakdown(recorded, latest.start, times.n)),
    )


def _intervals(
    times: Summary, amounts: Mapping[str, Sequence[float]], window: Sequence[float], peak: Peak | None
) -> dict[str, tuple[float, float | None]]:
    """Return the 95 % interval of the step time and of each rate; shares of the peak take in how well the peak is known."""
    if times.n < MIN_STEPS:
        return {}
    found: dict[str, tuple[float, float | None]] = {"step_time_s": (times.ci95_low, times.ci95_high)}
    for name, each in amounts.items():
        found[name] = ratio_interval(each, window)
        if peak is not None and BY_NAME[name].unit == "fraction":
            found[name] = widened(sum(each) / sum(window), found[name], peak.relative_half_width)
    return found


def steady_window_s(boundaries: Sequence[float], measurement: Figures) -> tuple[float, float]:
    """Return the begin and end of the steady steps between a rank's boundaries, in s of its host's monotonic clock."""
    return boundaries[measurement.warmup_steps], boundaries[measurement.warmup_steps + measurement.steps]


def joules_per_token(measurement: Figures, conditions: Conditions, num_devices: int) -> float | None:
    """Return the energy of all devices over all positions computed in the steady steps; None if a device reports none."""
    energies = [each.energy_j for each in conditions if isinstance(each, GpuConditions)]
    if len(energies) < num_devices or None in energies:
        return None
    positions = measurement.tokens_per_second_per_device * num_devices * measurement.step_time_s * measurement.steps
    return sum(energy for energy in energies if energy is not None) / positions


def usd_per_million_tokens(measurement: Figures, price_per_hour: float | None) -> float | None:
    """US$ per million positions computed, of a device's price in US$ per hour: the number of devices cancels out."""
    if price_per_hour is None:
        return None
    return price_per_hour / 3600 / measurement.tokens_per_second_per_device * 1e6


def of_ceiling(measurement: Figures, peak: Peak | None, ceiling: Ceiling | None) -> float | None:
    """Return the causal hardware FLOP/s over the largest matmul rate measured on this device; None if one isn't known."""
    if ceiling is None or peak is None or measurement.hfu_causal is None:
        return None
    return measurement.hfu_causal * peak.flops_per_second / ceiling.flops_per_second


def mfu_at_clock(measurement: Figures, peak: Peak | None, conditions: Conditions) -> float | None:
    """Return MFU over the peak at the mean clock of the steady steps; None if that clock, or the peak's own, isn't known."""
    clocks = [each.sm_clock_mhz_mean for each in conditions if isinstance(each, GpuConditions)]
    known = [clock for clock in clocks if clock is not None]
    if not known or peak is None or peak.clock_hz is None or measurement.mfu is None:
        return None
    return measurement.mfu * peak.clock_hz / (fmean(known) * 1e6)


def mean_flops(records: Records, flops: Counted, measurement: Figures) -> FlopCount:
    """Return the FLOPs of the mean measured step on the mean device."""
    steps = steps_of_all(records, measurement.warmup_steps, measurement.steps)
    total = _flops_of([batch for step in steps for batch in step], flops)
    device_steps = measurement.steps * len(records.ranks)
    mean: dict[str, Any] = {
        name: None if n is None else round(Fraction(n, device_steps)) for name, n in total.flops.items()
    }
    uncounted = {operator: round(calls / device_steps) for operator, calls in total.uncounted.items()}
    return replace(total, **mean, uncounted=uncounted)


def step_history(records: Records, flops: Counted, peak: Peak | None, measurement: Figures) -> list[dict[str, float]]:
    """Return a row for each step period of the measured rank, warm-up included, numbered from 1.

    The work of a row is the mean of all devices. The mean of `step_time_s` over the rows with `warmup` 0 is the measurement's.
    """
    recorded = of_rank(records, measurement.rank)
    periods = measurement.warmup_steps + measurement.steps
    batches_of_all = steps_of_all(records, 0, periods)
    rows = []
    for step, (seconds, batches) in enumerate(
        zip(recorded.step_times_s[:periods], batches_of_all, strict=True), start=1
    ):
        work = {name: amount / len(records.ranks) for name, amount in _work(batches, flops, peak).items()}
        row = {"step": step, "warmup": int(step <= measurement.warmup_steps), "step_time_s": seconds}
        rows.append(row | {name: work[name] / seconds for name in STEP_RATES if not isnan(work[name])})
    return rows


def as_executed(flops: Counted, records: Records) -> Counted:
    """Return the counts for the attention kernel that ran: SDPA skips the masked half only in calls with is_causal.

    The probe sees the calls of the first step, and later ones are assumed to be like them, though padding may add a mask to a
    micro-batch. If any call of the first step had a mask, no masked half is left out of any step.
    """
    if not masks_seen(records):
        return flops

    def whole(batch_size: int, sequence_length: int) -> FlopCount:
        counted = flops(batch_size, sequence_length)
        return replace(counted, hardware_flops_causal=counted.hardware_flops)

    return whole


def masks_seen(records: Records) -> bool:
    """True if a call of SDPA in some rank's first step had a mask, so that its kernel computes the masked half too."""
    seen = [rank.work.get("attention") or {} for rank in records.ranks]
    return any(each.get("sdpa_calls") and each["sdpa_calls"] != each.get("sdpa_causal_calls") for each in seen)


def impossible(measurement: Figures, flops: FlopCount, peak: Peak | None) -> tuple[Difference, ...]:
    """Return the figures that can't be: more causal hardware FLOP/s than the chip has, operators without a formula."""
    found = []
    if peak is not None and (measurement.hfu_causal or 0) > 1 and not peak.measured:
        seen = (measurement.hfu_causal or 0) * peak.flops_per_second
        found.append(
            Difference(
                what="FLOP/s (a wrong peak, wrong FLOPs, or steps that were not done)",
                asked=f"at most {rounded(peak.flops_per_second / 1e12, 4)} TFLOP/s, {peak.source}",
                seen=f"{rounded(seen / 1e12, 4)} TFLOP/s",
            )
        )
    if flops.uncounted:
        operators = ", ".join(f"{name} ×{calls}" for name, calls in flops.uncounted.items())
        found.append(Difference(what="operators on matrices", asked="a formula for each", seen=f"none for {operators}"))
    return tuple(found)


def boundaries_here(records: Records, measurement: Figures, node: str | None) -> tuple[float, ...]:
    """Return the boundaries of the measured rank, or of a rank on `node` if that is on another: clocks differ between hosts."""
    ranks = [of_rank(records, measurement.rank), *records.ranks]
    return next(rank for rank in ranks if rank.node in (None, node)).boundaries_s


def of_rank(records: Records, rank: int) -> RankRecord:
    """Return the record of the first process with this rank."""
    return next(each for each in records.ranks if each.rank == rank)


def steps_of_all(records: Records, first: int, steps: int) -> list[list[MicroBatch]]:
    """Return the micro-batches of every rank together, step by step, since samples may differ between ranks."""
    each = [rank.micro_batches[first : first + steps] for rank in records.ranks]
    return [[batch for of_rank in step for batch in of_rank] for step in zip(*each, strict=True)]


def _work(batches: Sequence[MicroBatch], flops: Counted, peak: Peak | None) -> dict[str, float]:
    """The amounts of a step's micro-batches, by the name of the rate that each is over a time in s; nan: not known."""
    amounts = {name: nan if amount is None else amount for name, amount in _flops_of(batches, flops).flops.items()}
    return rates(StepWork(_positions(batches), **amounts, peak_flops_per_second=peak.flops_per_second if peak else nan))


def _flops_of(batches: Sequence[MicroBatch], flops: Counted) -> FlopCount:
    """Return the FLOPs of several micro-batches together."""
    shapes = Counter((batch.batch_size, batch.sequence_length) for batch in batches)
    counts = [flops(*shape).scaled(times) for shape, times in shapes.items()]
    uncounted: Counter[str] = Counter()
    for each in counts:
        uncounted.update(each.uncounted)
    each_amount = {name: [getattr(each, name) for each in counts] for name in AMOUNTS}
    sums: dict[str, Any] = {name: None if None in amounts else sum(amounts) for name, amounts in each_amount.items()}
    return replace(counts[0], **sums, uncounted=dict(uncounted))


def _positions(batches: Sequence[MicroBatch]) -> int:
    return sum(batch.batch_size * batch.sequence_length for batch in batches)


def _tokens_per_step(counts: Sequence[int | None], steps: int) -> float | None:
    """Return the mean per step; None if the count of a micro-batch is unknown."""
    told = [count for count in counts if count is not None]
    return sum(told) / steps if len(told) == len(counts) else None
