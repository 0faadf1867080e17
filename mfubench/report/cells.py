"""Figures of a setting in words: what stands in the cells of a table. Pure."""

from __future__ import annotations

from mfubench.report.pooling import Figure, Pooled

# Heading → as it stands over a narrow column, in two lines; those of figures that not every run has come where some has one.
HEADINGS = {
    "step time": "step\ntime",
    "tokens/s/device": "tokens/s\nper device",
    "TFLOP/s": "model\nTFLOP/s",
    "MFU": "\nMFU",
    "MFU causal": "MFU\ncausal",
    "HFU": "\nHFU",
    "HFU causal": "HFU\ncausal",
    "of ceiling": "of\nceiling",
    "memory": "peak\nmemory",
    "padding": "\npadding",
    "energy": "energy\nper token",
}
FRACTIONS = {"MFU": "mfu", "MFU causal": "mfu_causal", "HFU": "hfu", "HFU causal": "hfu_causal"}


def figures_in_words(pooled: Pooled) -> dict[str, str]:
    """By heading; empty where no run is ok, and without what isn't there."""
    step_time = pooled.figure("step_time_s")
    if step_time is None:
        return {}
    tokens, rate = pooled.figure("tokens_per_second_per_device"), pooled.figure("model_tflops_per_second_per_device")
    assert tokens and rate
    cells = {
        "step time": with_interval(step_time, seconds(step_time.mean)),
        "tokens/s/device": f"{tokens.mean:,.0f}",
        "TFLOP/s": f"{rate.mean:.3g}",
    }
    cells |= {heading: percent(pooled, name) for heading, name in FRACTIONS.items()}
    if pooled.figure("of_ceiling"):
        cells["of ceiling"] = percent(pooled, "of_ceiling")
    memory = pooled.peak_memory_bytes
    cells["memory"] = f"{memory / 2**30:.2f} GiB" if memory else "–"
    padding = pooled.figure("padding_fraction")
    if padding and padding.mean:
        cells["padding"] = f"{padding.mean:.1%}"
    energy = pooled.figure("joules_per_token")
    if energy:
        cells["energy"] = f"{energy.mean * 1e3:.3g} mJ"
    return cells


def with_interval(figure: Figure, text: str) -> str:
    """The text of a figure's mean, and ± half the interval in percent of it."""
    return text if figure.half_width is None else f"{text} ±{figure.half_width / figure.mean:.1%}"


def percent(pooled: Pooled, name: str) -> str:
    """A fraction's mean."""
    figure = pooled.figure(name)
    return "–" if figure is None else f"{figure.mean:.1%}"


def seconds(value: float) -> str:
    """In s or ms, to four digits."""
    return f"{value:.4g} s" if value >= 1 else f"{value * 1e3:.4g} ms"
