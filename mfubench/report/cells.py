"""Figures of a setting in words: what stands in the cells of a table. Pure."""

from __future__ import annotations

from mfubench.measure.metric_table import COLUMNS, WORDS
from mfubench.report.pooling import Figure, Pooled

ABSENT = "–"
_MASKED = "without the half of attention that is masked (HFU: if the kernel skips it)"
MEANINGS = {  # of the columns, by heading
    "step time": "mean of the steady steps, with data loading, communication and the optimizer",
    "tokens/s/device": "positions computed per second on a device",
    "MFU": "FLOPs that training needs (no recomputation, attention in full) / (step time × peak)",
    "HFU": "FLOPs that are executed (recomputation included) / (step time × peak)",
    "memory": "at the peak, of the fullest device",
    "TFLOP/s": "MFU's FLOPs per second and device",
    "MFU causal": _MASKED,
    "HFU causal": _MASKED,
    "of ceiling": "HFU causal's FLOP/s / the largest matmul rate measured on this device",
    "padding": "share of the positions that only fill up a sequence; tokens/s, MFU and HFU count them",
    "energy": "of all devices, per position computed",
    "US$/M tokens": "price of a million positions at hardware.price_per_hour",
    "at clock": "MFU over the peak at the clock that the device had",
}


def figures_in_words(pooled: Pooled) -> dict[str, str]:
    """The cells of a setting by heading; empty if no run is ok, and without the columns that it has nothing for."""
    cells: dict[str, str] = {}
    if pooled.figure("step_time_s") is None:
        return cells
    for heading, metric in COLUMNS.items():
        figure = pooled.figure(metric.name)
        if figure and (figure.mean or metric.shown != "unless zero"):
            text = WORDS[metric.unit](figure.mean)
            cells[heading] = with_interval(figure, metric.unit) if metric.with_interval else text
        elif metric.shown == "always":
            cells[heading] = ABSENT
    return cells


def with_interval(figure: Figure, unit: str) -> str:
    """Write a figure's mean with ± half its interval: of a fraction in percentage points, else in percent of the mean."""
    text, half = WORDS[unit](figure.mean), figure.half_width
    if half is None:
        return text
    if unit == "fraction":
        return f"{text.removesuffix('%')} ±{max(100 * half, 0.1):.1f}%"
    return f"{text} ±{half / figure.mean:.1%}"


def percent(pooled: Pooled, name: str) -> str:
    """A fraction's mean."""
    figure = pooled.figure(name)
    return ABSENT if figure is None else WORDS["fraction"](figure.mean)
