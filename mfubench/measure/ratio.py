"""Compare two settings by repeated runs: the ratio of their step times, with its interval.

Fresh processes differ by more than the steps within one (memory layout, clocks), so the run is the unit, and runs made in
turns are pairs.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mfubench.measure.intervals import student

MOST_REPEATS = 1000  # to be worth proposing


@dataclass(frozen=True)
class Ratio:
    """The ratio other / one of two settings' times, with its 95 % interval."""

    ratio: float
    low: float | None  # None, as `high`: too few steps for an interval
    high: float | None
    basis: Literal["pairs", "runs", "single"]  # what the interval is over; single: only the steps within a run
    pairs: int  # 0: the runs are in none
    # That would resolve a difference of the size seen; 0: it is; None: more than anyone would run, or it can't be told.
    more_repeats: int | None

    @property
    def resolved(self) -> bool:
        """True if repeats show a difference between the settings."""
        return (
            self.low is not None and self.high is not None and self.basis != "single" and not self.low <= 1 <= self.high
        )


def paired(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return the ratio other / one of positive figures, one of each for each repeat, in the order of the repeats.

    Geometric mean of the ratios by pair, with Student's t on their logarithms. Raises ValueError for fewer than two pairs,
    which don't show how runs differ.
    """
    logs = [math.log(b / a) for a, b in zip(one, other, strict=True)]
    if len(logs) < 2:
        raise ValueError(f"{len(logs)} pair(s) of runs have no spread; give at least two repeats, as repeat=range(3)")
    n, mean, std = len(logs), statistics.fmean(logs), statistics.stdev(logs)

    def half(pairs: int) -> float:
        return student(pairs) * std / pairs**0.5

    return _ratio(mean, half(n), n, half, pairs=n)


def unpaired(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return the ratio other / one of positive figures of runs that were not made in turns.

    Ratio of geometric means, with Welch's t interval (1947) on logarithms, which doesn't assume equal spreads. Raises
    ValueError if a side has fewer than two runs.
    """
    fewer = min(len(one), len(other))
    if fewer < 2:
        raise ValueError(f"{fewer} run(s) have no spread; give at least two repeats, as repeat=range(3)")
    logs = [[math.log(value) for value in values] for values in (one, other)]
    a, b = (statistics.variance(values) for values in logs)

    def half(m: int, n: int) -> float:
        of_a, of_b = a / m, b / n
        if of_a + of_b == 0:
            return 0.0
        freedom = (of_a + of_b) ** 2 / (of_a**2 / (m - 1) + of_b**2 / (n - 1))
        return student(freedom + 1) * (of_a + of_b) ** 0.5

    mean = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    return _ratio(mean, half(len(one), len(other)), fewer, lambda n: half(n, n))


def single(one: tuple[float, float | None], other: tuple[float, float | None]) -> Ratio:
    """Return the ratio other / one of two means, if a side has one run only; it is never resolved.

    Each is a mean and half its interval, None if it has none. Relative half widths add in squares (first derivative of the
    logarithm). The interval holds for these runs' steps, not for the settings.
    """
    ratio = other[0] / one[0]
    if one[1] is None or other[1] is None:
        return Ratio(ratio, None, None, "single", 0, None)
    half = math.hypot(one[1] / one[0], other[1] / other[0])
    return Ratio(ratio, ratio * math.exp(-half), ratio * math.exp(half), "single", 0, None)


def _ratio(mean: float, half: float, repeats: int, half_after: Callable[[int], float], pairs: int = 0) -> Ratio:
    """Build a Ratio from logarithms. `half_after` maps a number of repeats to half the interval's width if the spread stayed."""
    more: int | None = 0
    if abs(mean) <= half:
        totals = range(repeats + 1, repeats + MOST_REPEATS)
        found = bisect.bisect_left(totals, True, key=lambda total: half_after(total) < abs(mean))
        more = totals[found] - repeats if found < len(totals) else None
    basis: Literal["pairs", "runs"] = "pairs" if pairs else "runs"
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), basis, pairs, more)
