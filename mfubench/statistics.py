"""Step times in; the steady ones and what they sum up to out. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What `n` values sum up to, each figure in the values' own unit.

    The interval is Student's t for the mean at 95 %. It assumes independent values: where neighbouring steps are alike,
    it is too narrow.
    """

    n: int
    mean: float
    median: float
    std: float  # of the sample: n - 1 in the denominator
    minimum: float
    maximum: float
    ci95_low: float
    ci95_high: float


def summarize(values: Sequence[float]) -> Summary:
    """The Summary of at least two values; ValueError for fewer, which have no spread."""
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} value(s) have no spread; at least 2 are needed, such as measurement.steps=2")
    from scipy.stats import t

    mean = statistics.fmean(values)
    std = statistics.stdev(values)
    half_width = float(t.ppf(0.975, n - 1)) * std / n**0.5
    return Summary(
        n=n,
        mean=mean,
        median=statistics.median(values),
        std=std,
        minimum=min(values),
        maximum=max(values),
        ci95_low=mean - half_width,
        ci95_high=mean + half_width,
    )


def steady(step_times_s: Sequence[float], warmup_steps: int) -> Sequence[float]:
    """The step times, in s, after the first `warmup_steps`; none when there are no more than that."""
    return step_times_s[warmup_steps:]
