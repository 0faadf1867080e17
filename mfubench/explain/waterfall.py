"""The way from the peak down to the MFU: the terms by which a step misses it, in fractions of what the peak could do in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mfubench.explain.categories import CATEGORIES, Kind, short_name
from mfubench.explain.exclusive import IDLE, Exclusive, by_category

Device = Literal["cpu", "cuda"]
MOST_BUSY = 1.05  # of the measured step: profiled kernels that take longer are of other steps
MOST_RATE: Mapping[Device, float] = {"cuda": 1.02, "cpu": 1.05}  # of the peak; a CPU's is itself measured
MOST_OTHER_WORK = 0.01  # by which the profiled steps' FLOPs may differ from the measured ones'


class NoWaterfall(ValueError):
    """A profile that doesn't explain the measured steps, with the reason."""


@dataclass(frozen=True)
class StepTime:
    """Exclusive times of the mean profiled step, brought to the mean measured step."""

    kinds: Mapping[Kind, float]  # s, idle among them; they add up to the measured step time
    profiled_idle: float  # s of the profiled step
    stretch: float  # profiled step time over the measured one
    hidden_communication: float  # s of the profiled step, beside computation

    @property
    def categories(self) -> dict[str, float]:
        """Time by category, in s; those that occur."""
        return by_category(self.kinds)

    @property
    def seconds(self) -> float:
        """Time of the measured step."""
        return sum(self.kinds.values())


@dataclass(frozen=True)
class Work:
    """FLOPs of the mean measured step on the measured device, attention counted causally, and the peak they are held against."""

    model: float  # FLOP: model_flops_causal
    hardware: float  # FLOP: hardware_flops_causal
    recomputation: float  # FLOP, of `hardware`; 0 without gradient checkpointing
    attention: float  # FLOP, of `hardware`, that kernels of the category attention execute; eager attention: 0
    peak: float  # FLOP/s that the MFU is relative to
    fastest_peak: float  # FLOP/s of the dtype of the fastest products: `peak`, but for fp8 beside bf16
    profiled: float  # FLOP: hardware_flops_causal of the mean profiled step
    clock_ratio: float | None  # mean SM clock of the steady steps over the peak's own; None: not known, or a CPU


@dataclass(frozen=True)
class Waterfall:
    """Terms in fractions of peak x step time: 1 less all of `executed` is HFU, less those of `needed` too is MFU (causal)."""

    executed: Mapping[str, float]  # clock (if known; negative: a gain), the categories' times, matmul, attention
    needed: Mapping[str, float]  # recomputation, other executed work
    matmul_rate: float | None  # FLOP/s of matmuls over the peak at the run's clock; None without a matmul

    @property
    def hfu_causal(self) -> float:
        """Fraction that is left for all work executed."""
        return 1 - sum(self.executed.values())

    @property
    def mfu_causal(self) -> float:
        """Fraction that is left for the work that training needs."""
        return self.hfu_causal - sum(self.needed.values())


def step_time(profile: Exclusive, steps: int, measured: float, device: Device) -> StepTime:
    """Bring the exclusive times of profiled steps to the mean measured step.

    The profiler slows the host: kernels of a GPU keep their durations and idle is what they leave; operators of a CPU are slowed
    themselves, so that all times shrink alike.

    Args:
        profile: of a window of whole steps.
        steps: in that window.
        measured: mean time of the measured steps, in s.
        device: of the run.

    Raises:
        NoWaterfall: a GPU was busy for longer than the measured step.
    """
    mean = {kind: time / steps / 1e9 for kind, time in profile.kinds.items()}
    profiled, idle = sum(mean.values()), mean.pop(IDLE, 0.0)
    busy = sum(mean.values())
    if device == "cuda" and busy > MOST_BUSY * measured:
        raise NoWaterfall(
            f"kernels of a profiled step take {busy * 1e3:.1f} ms, the measured step {measured * 1e3:.1f} ms: the profiled steps "
            "are others than the measured ones, by their clock, their shapes or their rank"
        )
    scale = measured / profiled if device == "cpu" else measured / max(busy, measured)
    kinds = {kind: time * scale for kind, time in mean.items()}
    return StepTime(
        kinds={**kinds, IDLE: idle * scale if device == "cpu" else max(measured - sum(kinds.values()), 0.0)},
        profiled_idle=idle,
        stretch=profiled / measured,
        hidden_communication=profile.hidden_communication / steps / 1e9,
    )


def waterfall(time: StepTime, work: Work, device: Device) -> Waterfall:
    """Return the terms between the peak and the MFU.

    Args:
        time: of the measured step.
        work: of the measured step.
        device: of the run.

    Raises:
        NoWaterfall: the profiled steps did other work, or the split of time or FLOPs is wrong.
    """
    _check(time, work, device)
    step, categories, ratio = time.seconds, time.categories, work.clock_ratio or 1.0
    possible = work.peak * step
    flops = {"matmul": work.hardware - work.attention, "attention": work.attention}
    executed = {} if work.clock_ratio is None else {"clock": 1 - ratio}
    executed |= {
        name: ratio * categories[name] / step for name in CATEGORIES if name in categories and name not in flops
    }
    executed |= {name: ratio * categories.get(name, 0.0) / step - count / possible for name, count in flops.items()}
    other, matmul = work.hardware - work.recomputation - work.model, categories.get("matmul")
    return Waterfall(
        executed=executed,
        needed={"recomputation": work.recomputation / possible, "other executed work": other / possible},
        matmul_rate=flops["matmul"] / (ratio * work.peak * matmul) if matmul else None,
    )


def _check(time: StepTime, work: Work, device: Device) -> None:
    """Raise NoWaterfall for FLOPs that the times can't be of."""
    if abs(work.profiled / work.hardware - 1) > MOST_OTHER_WORK:
        raise NoWaterfall(
            f"profiled steps execute {work.profiled / 1e12:.3f} TFLOP, measured ones {work.hardware / 1e12:.3f}: their shapes "
            "differ; profile more steps, as measurement.profile_steps=10"
        )
    if work.hardware - work.recomputation - work.model < -1e-9 * work.hardware:
        raise NoWaterfall(
            f"the model's FLOPs hold {(work.model + work.recomputation - work.hardware) / 1e12:.3f} TFLOP that weren't "
            "executed, such as an lm_head of fewer positions"
        )
    categories, ratio, attention = time.categories, work.clock_ratio or 1.0, work.attention
    for name, flops in {"matmul": work.hardware - attention, "attention": attention}.items():
        most = MOST_RATE[device] * ratio * work.fastest_peak
        spent = categories.get(name, 0.0)
        if flops > most * spent:
            unknown = {kind.name: seconds for kind, seconds in time.kinds.items() if kind.category == "other"}
            largest = [short_name(each) for each in sorted(unknown, key=lambda each: -unknown[each])[:3]]
            others = f"; the largest kernels that no pattern knows: {', '.join(largest)}" if largest else ""
            raise NoWaterfall(
                f"{name} kernels take {spent * 1e3:.1f} ms for {flops / 1e12:.3f} TFLOP, faster than the "
                f"{most / 1e12:.1f} TFLOP/s that are possible: kernels of other names did part of it, or it wasn't done{others}"
            )
