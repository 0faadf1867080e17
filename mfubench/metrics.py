"""Records + FLOPs + peak → Measurement: step time, rates and the four utilisations, with their intervals. Pure.

MFU = model FLOPs / (step time x peak): what the mode needs, no recomputation (the PaLM convention, Chowdhery et al. 2022,
appendix B). HFU = hardware FLOPs / (step time x peak): what is executed, recomputation included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mfubench.flops import FlopCount
from mfubench.hardware import Peak
from mfubench.records import Difference, RankRecord, Records
from mfubench.statistics import steady, summarize

CONVENTIONS = {
    "step_time_s": "mean of the steady steps, first training forward to first training forward of the next step, of the rank "
    "with the longest window; 95 % Student-t interval that takes the steps for independent",
    "tokens_per_second_per_device": "positions computed (padding included) / step time, per device",
    "mfu": "model FLOPs (forward + the backward that the mode needs, no recomputation, attention over the full square, its "
    "backward twice its forward: PaLM) / (step time x dense peak)",
    "mfu_causal": "as mfu, with causal attention counted exactly, s(s+1)/2 (Megatron)",
    "hfu": "hardware FLOPs as PyTorch's counter counts them (recomputation of the actual kind, full square, fused attention's "
    "backward 2.5 times its forward, eager's twice) / (step time x dense peak)",
    "hfu_causal": "as hfu, without the masked half where the kernel that ran skips it",
}
MEASURED_PEAK_TOLERANCE = 1.05


@dataclass(frozen=True)
class Measurement:
    """What a run's steady steps say. Rates are work / mean step time; fractions are 0 to 1."""

    steps: int
    warmup_steps: int
    rank: int  # whose series this is: the one with the longest window
    rank_spread: float  # (longest - shortest window) / longest
    step_time_s: float
    step_time_s_median: float
    step_time_s_std: float
    step_time_s_min: float
    step_time_s_max: float
    tokens_per_second_per_device: float
    model_tflops_per_second_per_device: float
    hardware_tflops_per_second_per_device: float
    mfu: float
    mfu_causal: float
    hfu: float
    hfu_causal: float
    ci95: Mapping[str, tuple[float, float | None]]  # of the figures above, by name
    positions_per_step: int
    real_tokens_per_step: float | None  # attended to; None where no attention mask was seen
    trained_tokens_per_step: float | None  # label != -100; None where no labels were seen
    padding_fraction: float | None
    peak_memory_bytes: int | None  # the largest of the ranks
    memory_kind: str | None


def measure(records: Records, flops: FlopCount, peak: Peak, warmup_steps: int, steps: int) -> Measurement:
    """The measurement over `steps` periods after `warmup_steps`; fewer where the run was cut short.

    `flops` is one optimizer step's on one device. ValueError when fewer than two steady periods were recorded.
    """
    windows = {r.rank: tuple(steady(r.step_times_s[: warmup_steps + steps], warmup_steps)) for r in records.ranks}
    shortest = min((len(window) for window in windows.values()), default=0)
    windows = {rank: window[:shortest] for rank, window in windows.items()}
    rank = max(windows, key=lambda r: sum(windows[r]), default=0)
    times = summarize(windows.get(rank, ()))
    recorded = next(r for r in records.ranks if r.rank == rank)
    positions, real, trained = _tokens(recorded, warmup_steps, shortest)
    work = {
        "tokens_per_second_per_device": positions,
        "model_tflops_per_second_per_device": flops.model_flops / 1e12,
        "hardware_tflops_per_second_per_device": flops.hardware_flops / 1e12,
        "mfu": flops.model_flops / peak.flops_per_second,
        "mfu_causal": flops.model_flops_causal / peak.flops_per_second,
        "hfu": flops.hardware_flops / peak.flops_per_second,
        "hfu_causal": flops.hardware_flops_causal / peak.flops_per_second,
    }
    longest = sum(windows[rank])
    return Measurement(
        steps=times.n,
        warmup_steps=warmup_steps,
        rank=rank,
        rank_spread=(longest - min(sum(w) for w in windows.values())) / longest,
        step_time_s=times.mean,
        step_time_s_median=times.median,
        step_time_s_std=times.std,
        step_time_s_min=times.minimum,
        step_time_s_max=times.maximum,
        **{name: amount / times.mean for name, amount in work.items()},
        ci95={"step_time_s": (times.ci95_low, times.ci95_high)}
        | {name: _rate_interval(amount, times.ci95_low, times.ci95_high) for name, amount in work.items()},
        positions_per_step=round(positions),
        real_tokens_per_step=real,
        trained_tokens_per_step=trained,
        padding_fraction=None if real is None else 1 - real / positions,
        peak_memory_bytes=max((r.peak_memory_bytes for r in records.ranks if r.peak_memory_bytes), default=None),
        memory_kind=recorded.memory_kind,
    )


def as_executed(flops: FlopCount, records: Records) -> FlopCount:
    """The count for the attention kernel that ran: SDPA skips the masked half only in calls that are told to be causal."""
    seen = [rank.work.get("attention") or {} for rank in records.ranks]
    whole = any(each.get("sdpa_calls") and each["sdpa_calls"] != each.get("sdpa_causal_calls") for each in seen)
    return replace(flops, hardware_flops_causal=flops.hardware_flops) if whole else flops


def impossible(measurement: Measurement, flops: FlopCount, peak: Peak) -> tuple[Difference, ...]:
    """What can't be: more FLOP/s than the chip does (the causal hardware figure), operators that no formula counts."""
    found = []
    if measurement.hfu_causal > 1 and not peak.measured:
        seen = measurement.hfu_causal * peak.flops_per_second
        found.append(
            Difference(
                what="FLOP/s (a wrong peak, wrong FLOPs, or steps that were not done)",
                asked=f"at most {peak.flops_per_second / 1e12:.4g} TFLOP/s, {peak.source}",
                seen=f"{seen / 1e12:.4g} TFLOP/s",
            )
        )
    if flops.uncounted:
        operators = ", ".join(f"{name} ×{calls}" for name, calls in flops.uncounted.items())
        found.append(Difference(what="operators on matrices", asked="a formula for each", seen=f"none for {operators}"))
    return tuple(found)


def _rate_interval(amount: float, low_s: float, high_s: float) -> tuple[float, float | None]:
    """The interval of amount / time from that of the time; without an upper end where the time's reaches zero."""
    return amount / high_s, amount / low_s if low_s > 0 else None


def _tokens(record: RankRecord, first: int, steps: int) -> tuple[float, float | None, float | None]:
    """Positions, attended tokens and trained tokens per step over the measured steps of one rank."""
    batches = [batch for step in record.micro_batches[first : first + steps] for batch in step]
    real = [batch.real_tokens for batch in batches if batch.real_tokens is not None]
    trained = [batch.trained_tokens for batch in batches if batch.trained_tokens is not None]
    return (
        sum(batch.batch_size * batch.sequence_length for batch in batches) / steps,
        sum(real) / steps if len(real) == len(batches) else None,
        sum(trained) / steps if len(trained) == len(batches) else None,
    )
