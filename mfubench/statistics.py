"""Step times in; the steady ones and what they sum up to out. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.975  # of each end: 95 % of both


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
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    mean = statistics.fmean(values)
    std = statistics.stdev(values)
    half_width = float(stdtrit(n - 1, CONFIDENCE)) * std / n**0.5
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


def ratio_interval(amounts: Sequence[float], times: Sequence[float]) -> tuple[float, float | None]:
    """The 95 % interval of the rate sum(amounts) / sum(times), from pairs of an amount that is never negative and its time.

    The rates R for which the mean of amount - R x time is not significantly different from zero by Student's t: the
    quadratic confidence limits of Fieller (1954) for a ratio of means (Cochran 1977, section 6.5). Where the amounts are
    all the same they are amount / the ends of the mean time's interval. No upper end where that interval reaches zero.
    """
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    n = len(times)
    amount, time = statistics.fmean(amounts), statistics.fmean(times)
    factor = float(stdtrit(n - 1, CONFIDENCE)) ** 2 / n
    of_amount, of_time = statistics.variance(amounts, amount), statistics.variance(times, time)
    of_both = statistics.covariance(amounts, times)
    residual = [amount_i * time - amount * time_i for amount_i, time_i in zip(amounts, times, strict=True)]
    # R lies between the roots of a R² - 2 b R + c; b² - a c is written without the difference of nearly equal squares.
    a, b, c = time**2 - factor * of_time, amount * time - factor * of_both, amount**2 - factor * of_amount
    discriminant = factor * statistics.variance(residual, 0.0) - factor**2 * (of_amount * of_time - of_both**2)
    if discriminant < 0:  # times so uneven that no rate is significantly wrong
        return 0.0, None
    root = discriminant**0.5
    return c / (b + root) if c > 0 else 0.0, (b + root) / a if a > 0 else None


def steady(step_times_s: Sequence[float], warmup_steps: int) -> Sequence[float]:
    """The step times, in s, after the first `warmup_steps`; none when there are no more than that."""
    return step_times_s[warmup_steps:]
