"""Summarise series of values with confidence intervals that take autocorrelation into account."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CONFIDENCE = 0.95
# Fewer steps have no interval: their autocorrelation can't be told from chance, and one series in twenty would get ±30 % and
# more where ±3 % is right (`make bench` shows the coverage).
MIN_STEPS = 20


@dataclass(frozen=True)
class Summary:
    """Summary statistics of `n` values, in the values' own unit.

    The interval is Student's t for the mean at 95 %, with the effective number of independent values.
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
    """Summarise at least two values. Raises ValueError for fewer, which have no spread."""
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} value(s) have no spread; at least 2 are needed, such as measurement.steps=2")
    mean = statistics.fmean(values)
    std = statistics.stdev(values)
    half = half_width(values)
    return Summary(
        n=n,
        mean=mean,
        median=statistics.median(values),
        std=std,
        minimum=min(values),
        maximum=max(values),
        ci95_low=mean - half,
        ci95_high=mean + half,
    )


def half_width(values: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Return half the width of the 95 % Student's t interval for the mean of at least two values."""
    worth = effective_size(values)
    return student(worth, confidence) * statistics.stdev(values) / worth**0.5


def effective_size(values: Sequence[float]) -> float:
    """Return the number of independent values that determine the mean as well as these correlated ones: 2 to n.

    n (1 - r) / (1 + r), as for an autoregressive process of first order with lag-one autocorrelation r (Bayley and
    Hammersley 1946), after correcting the bias of its estimate, -(1 + 3 r) / n (Kendall 1954). A negative r counts as 0.
    """
    n = len(values)
    mean = statistics.fmean(values)
    centred = [value - mean for value in values]
    power = sum(each * each for each in centred)
    if n < 4 or power == 0:
        return float(n)
    found = sum(a * b for a, b in pairwise(centred)) / power
    r = min(max(found + (1 + 3 * found) / n, 0.0), 0.99)
    return max(n * (1 - r) / (1 + r), 2.0)


def ratio_interval(amounts: Sequence[float], times: Sequence[float]) -> tuple[float, float | None]:
    """Return the 95 % interval of the rate sum(amounts) / sum(times).

    The interval holds the rates R for which the mean of amount - R x time is not significantly different from zero by
    Student's t: the quadratic confidence limits of Fieller (1954) for a ratio of means (Cochran 1977, section 6.5). If all
    amounts are equal, they are the amount over the ends of the mean time's interval. Autocorrelated pairs count as
    `effective_size` says.

    Args:
        amounts: work of each step, never negative.
        times: time of each step, in s.

    Returns:
        The lower and the upper end; the upper one is None if the interval of the mean time reaches zero.
    """
    amount, time = statistics.fmean(amounts), statistics.fmean(times)
    residual = [amount_i * time - amount * time_i for amount_i, time_i in zip(amounts, times, strict=True)]
    worth = effective_size(residual)
    factor = student(worth) ** 2 / worth
    of_amount, of_time = statistics.variance(amounts, amount), statistics.variance(times, time)
    of_both = statistics.covariance(amounts, times)
    # R lies between the roots of a R² - 2 b R + c; b² - a c is written without the difference of nearly equal squares.
    a, b, c = time**2 - factor * of_time, amount * time - factor * of_both, amount**2 - factor * of_amount
    discriminant = factor * statistics.variance(residual, 0.0) - factor**2 * (of_amount * of_time - of_both**2)
    if discriminant < 0:  # times so uneven that no rate is significantly wrong
        return 0.0, None
    root = discriminant**0.5
    return c / (b + root) if c > 0 else 0.0, (b + root) / a if a > 0 else None


def widened(mean: float, ends: tuple[float, float | None], relative: float) -> tuple[float, float | None]:
    """Widen an interval of a positive rate by the `relative` uncertainty of its independent divisor: they add in squares."""
    low, high = ends
    return (
        max(mean * (1 - math.hypot(1 - low / mean, relative)), 0.0),
        None if high is None else mean * (1 + math.hypot(high / mean - 1, relative)),
    )


def student(worth: float, confidence: float = CONFIDENCE) -> float:
    """Return the two-sided Student's t quantile for this confidence and this effective number of values."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(max(worth - 1, 1.0), (1 + confidence) / 2))
