"""List the figures of a run, a row each: name, unit, convention and place in reports. Tables, CSV, HTML and W&B loop over it.

To add a metric: a row here, its field in figures.Figures, and the function that computes it (a rate has it in its row).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from mfubench.measure.intervals import MIN_STEPS


@dataclass(frozen=True)
class StepWork:
    """The work of an optimizer step, and the peak of a device; nan: not known."""

    positions: float
    model_flops: float
    model_flops_causal: float
    hardware_flops: float
    hardware_flops_causal: float
    peak_flops_per_second: float


@dataclass(frozen=True)
class Metric:
    """A figure of figures.Figures."""

    name: str  # in result.json's measurement, in CSV and in W&B
    unit: str  # decides how it is written, see WORDS
    convention: str = ""  # its definition, in result.json's conventions
    heading: str | None = None  # of its column in the tables; None: it has none
    two_lines: str = ""  # the heading over a narrow column
    column: int = 0  # its place among the columns
    shown: Literal["always", "if known", "unless zero"] = "if known"  # its column
    with_interval: bool = False  # beside it in its column
    largest: bool = False  # of several runs, the largest stands for all; else the mean
    per_step: int | None = None  # its place in a step's row of the history; None: it isn't there
    rate: Callable[[StepWork], float] | None = None  # over a time in s: the amount per step; None: no rate


def rounded(value: float, digits: int = 3) -> str:
    """To so many digits, a large number without an exponent: 0.165, 1,190."""
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if abs(float(text)) >= 1000 else text


def seconds(value: float) -> str:
    """In s or ms, to four digits."""
    return f"{rounded(value, 4)} s" if value >= 1 else f"{rounded(value * 1e3, 4)} ms"


def percent(fraction: float, digits: int = 1, sign: str = "") -> str:
    """In percent; `sign` "+" shows a plus, too. What rounds to 0 is not negative."""
    rounded = round(100 * fraction, digits) + 0.0
    return f"{rounded:{sign}.{digits}f}%".replace("-", "−")


# Unit → how a value is written in a table. Counts have no column.
WORDS: Mapping[str, Callable[[float], str]] = {
    "s": seconds,
    "tokens/s": "{:,.0f}".format,
    "TFLOP/s": rounded,
    "TFLOP": lambda value: f"{rounded(value, 4)} TFLOP",
    "fraction": percent,
    "bytes": lambda value: f"{value / 2**30:.2f} GiB",
    "J/token": lambda value: f"{rounded(value * 1e3)} mJ",
    "US$": lambda value: rounded(value, 4),
}

STEP_PARTS = (
    "means per steady step: in the data loader; from the first training forward to the optimizer; from there to the next "
    "step's first forward. The last two add up to the step time; the wait is a part of them"
)

LOSS = (
    "mean cross-entropy per trained token that a position predicts, over all micro-batches and ranks, of the first step and "
    "of the last one whose loss was read: the scalars on which backward() is called, less the framework's own scale"
)

DEVICE_SECONDS = (
    "wall time of the framework's processes x devices: what the figures cost; and its parts, by the host's clock: before "
    "the first training forward, the steps before the first steady one, the steady steps, and from there to the end"
)

METRICS = (
    Metric(
        "step_time_s",
        "s",
        "mean of the steady steps, first training forward to first training forward of the next step, of the rank "
        "with the longest window; 95 % Student-t interval over as many steps as these, which are not independent, are worth "
        f"(Fieller's for rates; shares of a measured peak take in its spread); none for fewer than {MIN_STEPS} steps",
        heading="step time",
        two_lines="step\ntime",
        column=1,
        shown="always",
        with_interval=True,
        per_step=1,
    ),
    Metric("relative_half_width", "fraction"),
    Metric("step_time_s_median", "s"),
    Metric("step_time_s_std", "s"),
    Metric("step_time_s_min", "s"),
    Metric("step_time_s_max", "s"),
    Metric("steps", "count"),
    Metric(
        "warmup_steps",
        "count",
        "steps before the first that is like the second half of the series (medians of five neighbours within three "
        "robust standard deviations), at least measurement.warmup_steps; settled: no straight line through the rest has a "
        "significant slope that matters",
    ),
    Metric("drift", "fraction"),
    Metric("rank_spread", "fraction"),
    Metric("data_wait_s", "s", STEP_PARTS),
    Metric("forward_to_optimizer_s", "s", STEP_PARTS),
    Metric("optimizer_to_forward_s", "s", STEP_PARTS),
    Metric("probe_s", "s"),
    Metric(
        "of_ceiling",
        "fraction",
        "hardware FLOPs per second, causal / the largest matmul rate measured on this device",
        heading="of ceiling",
        two_lines="of\nceiling",
        column=9,
    ),
    Metric(
        "mfu_at_clock",
        "fraction",
        "as mfu, over the peak at the mean clock of the multiprocessors in the steady steps: mfu x the clock at which the "
        "data sheet's peak holds / that clock",
        heading="at clock",
        two_lines="MFU at\nits clock",
        column=13,
    ),
    Metric("device_seconds", "s", DEVICE_SECONDS),
    Metric("device_seconds_before_first_step", "s", DEVICE_SECONDS),
    Metric("device_seconds_warmup", "s", DEVICE_SECONDS),
    Metric("device_seconds_measured", "s", DEVICE_SECONDS),
    Metric("device_seconds_after", "s", DEVICE_SECONDS),
    Metric(
        "tokens_per_second_per_device",
        "tokens/s",
        "positions computed (padding included), the mean of all devices / step time",
        heading="tokens/s/device",
        two_lines="tokens/s\nper device",
        column=2,
        shown="always",
        with_interval=True,
        per_step=2,
        rate=lambda step: step.positions,
    ),
    Metric(
        "model_tflops_per_second_per_device",
        "TFLOP/s",
        heading="TFLOP/s",
        two_lines="model\nTFLOP/s",
        column=6,
        shown="always",
        per_step=5,
        rate=lambda step: step.model_flops / 1e12,
    ),
    Metric(
        "hardware_tflops_per_second_per_device", "TFLOP/s", per_step=6, rate=lambda step: step.hardware_flops / 1e12
    ),
    Metric(
        "mfu",
        "fraction",
        "model FLOPs (forward + the backward that the mode needs, no recomputation, attention over the full square, its "
        "backward twice its forward: PaLM) / (step time x dense peak)",
        heading="MFU",
        two_lines="\nMFU",
        column=3,
        shown="always",
        with_interval=True,
        per_step=3,
        rate=lambda step: step.model_flops / step.peak_flops_per_second,
    ),
    Metric(
        "mfu_causal",
        "fraction",
        "as mfu, with causal attention counted exactly, s(s+1)/2 (Megatron)",
        heading="MFU causal",
        two_lines="MFU\ncausal",
        column=7,
        shown="always",
        rate=lambda step: step.model_flops_causal / step.peak_flops_per_second,
    ),
    Metric(
        "hfu",
        "fraction",
        "hardware FLOPs as PyTorch's counter counts them (recomputation of the actual kind, full square, fused attention's "
        "backward 2.5 times its forward, eager's twice) / (step time x dense peak)",
        heading="HFU",
        two_lines="\nHFU",
        column=4,
        shown="always",
        with_interval=True,
        per_step=4,
        rate=lambda step: step.hardware_flops / step.peak_flops_per_second,
    ),
    Metric(
        "hfu_causal",
        "fraction",
        "as hfu, without the masked half where the kernel that ran skips it, which the attention calls of the first "
        "step tell for all",
        heading="HFU causal",
        two_lines="HFU\ncausal",
        column=8,
        shown="always",
        rate=lambda step: step.hardware_flops_causal / step.peak_flops_per_second,
    ),
    Metric("positions_per_step", "count"),
    Metric("sequence_length_min", "count"),
    Metric("sequence_length_mean", "count"),
    Metric("sequence_length_max", "count"),
    Metric("real_tokens_per_step", "count"),
    Metric("trained_tokens_per_step", "count"),
    Metric("padding_fraction", "fraction", heading="padding", two_lines="\npadding", column=10, shown="unless zero"),
    Metric(
        "peak_memory_bytes",
        "bytes",
        heading="memory",
        two_lines="peak\nmemory",
        column=5,
        shown="always",
        largest=True,
    ),
    Metric("joules_per_token", "J/token", heading="energy", two_lines="energy\nper token", column=11),
    Metric("usd_per_million_tokens", "US$", heading="US$/M tokens", two_lines="US$ per\nM tokens", column=12),
    Metric("loss_first", "nats", LOSS),
    Metric("loss_last", "nats", LOSS),
)

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
COLUMNS: Mapping[str, Metric] = {
    metric.heading: metric for metric in sorted(METRICS, key=lambda metric: metric.column) if metric.heading
}
PER_STEP = tuple(
    metric.name for metric in sorted(METRICS, key=lambda metric: metric.per_step or 0) if metric.per_step is not None
)
STEP_RATES = tuple(name for name in PER_STEP if BY_NAME[name].rate)


def rates(step: StepWork) -> dict[str, float]:
    """The amount of a step behind each rate, by the rate's name: over the step's time in s it is the rate."""
    return {metric.name: metric.rate(step) for metric in METRICS if metric.rate}


def _conventions() -> dict[str, str]:
    """The convention of each figure; metrics that share one stand together."""
    names: dict[str, list[str]] = {}
    for metric in METRICS:
        names.setdefault(metric.convention, []).append(metric.name)
    return {", ".join(together): convention for convention, together in names.items() if convention}


# The definition of every figure in result.json; the last two are of its `flops`.
CONVENTIONS: Mapping[str, str] = {
    **_conventions(),
    "second_count": "the same step by a closed form that shares no code with the trace; null: this model or mode has none",
    "in_situ": "one warm-up step, counted operator by operator in the framework's own process, beside the hardware FLOPs of "
    "the same micro-batches",
}
