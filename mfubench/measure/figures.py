"""The parts of a result that measuring fills: figures, the step counted while it ran, warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "not_steady",  # the step time drifts, or never settled
    "imprecise",  # the mean step time is less sure than was asked for
    "ended_by_user",
    "ended_badly",  # the framework, after all measured steps
    "throttled",  # these five: the machine, see hardware.conditions
    "power_capped",
    "foreign_process",
    "memory_errors",
    "busy_machine",
    "ceiling_exceeded",  # the measured one, or a measured peak
    "in_situ",  # a step counted in the framework's own process was another, or none could be
    "recomputation_hidden",
    "too_small",  # the model, for the device
    "unknown",  # a figure that is absent, and why
    "unwatched",  # nodes on which nobody looked at the devices
    "inapplicable",  # a setting that changes nothing here
    "text_part",  # of a multimodal model
]


@dataclass(frozen=True)
class Figures:
    """The figures of a run's steady steps. Rates are the work of all steps over their time; fractions are 0 to 1."""

    steps: int  # steady ones
    warmup_steps: int  # before the first steady one
    steady_because: str
    settled: bool | None  # None: too few steps to tell
    drift: float | None  # of the step time from the first steady step to the last, as a fraction of the mean
    rank: int  # whose series this is: the one with the longest window
    rank_spread: float  # (longest - shortest window) / longest
    step_time_s: float
    relative_half_width: float | None  # half the 95 % interval of the mean step time, over it; None: too few steps
    step_time_s_median: float
    step_time_s_std: float
    step_time_s_min: float
    step_time_s_max: float
    tokens_per_second_per_device: float
    model_tflops_per_second_per_device: float | None  # these six: None if the FLOPs or the peak aren't known
    hardware_tflops_per_second_per_device: float | None
    mfu: float | None
    mfu_causal: float | None
    hfu: float | None
    hfu_causal: float | None
    ci95: Mapping[str, tuple[float, float | None]]  # of the step time and the rates, by name; empty: too few steps
    positions_per_step: int  # these and the tokens: means over steps and devices
    sequence_length_min: int  # these three: of the micro-batches
    sequence_length_mean: float
    sequence_length_max: int
    real_tokens_per_step: float | None  # attended to; None: an attention mask is missing
    trained_tokens_per_step: float | None  # label != -100; None: labels are missing
    padding_fraction: float | None
    peak_memory_bytes: int | None  # the largest of the ranks
    memory_kind: str | None
    data_wait_s: float | None  # these four: means per steady step, see step_breakdown.py
    forward_to_optimizer_s: float | None
    optimizer_to_forward_s: float | None
    probe_s: float | None
    stopped_because: str | None = None  # sure | time | steps | user
    device_seconds: float | None = None  # this and its four parts: see device_time.py; None: schema 4 has no parts
    device_seconds_before_first_step: float | None = None
    device_seconds_warmup: float | None = None
    device_seconds_measured: float | None = None
    device_seconds_after: float | None = None
    joules_per_token: float | None = None  # per position computed, of all devices; None: no energy was read
    of_ceiling: float | None = None  # None: no ceiling was measured
    mfu_at_clock: float | None = None  # None: the clock, or the peak's own clock, isn't known
    usd_per_million_tokens: float | None = None  # per million positions computed; None: the price is not known
    loss_first: float | None = None  # mean per target of the first step, over all ranks; None: not known
    loss_last: float | None = None  # the same, of the last step whose loss was read


@dataclass(frozen=True)
class InSitu:
    """The FLOPs of the step that was counted while it ran, on the mean device."""

    flops: float | None  # None: torch.compile ran, so most operators were not seen
    expected_flops: float | None  # hardware FLOPs counted for the very micro-batches of that step
    apart: float | None  # (flops - expected) / expected; None: one of them isn't known
    by_operator: Mapping[str, float]
    uncounted: Mapping[str, float]  # operators that may multiply matrices and have no formula, with shapes -> calls
    explanation: str | None  # of a difference of more than 1 %, if a known cause makes it


@dataclass(frozen=True)
class RunWarning:
    """One warning beside a result."""

    kind: Kind
    text: str
