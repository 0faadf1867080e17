"""Two settings compared by repeated runs. In: a mean step time per run, in pairs. Out: their ratio, and how sure it is.

Fresh processes differ by more than the steps within one: memory lies elsewhere, clocks have drifted. So the run is the
unit, and runs that stood beside each other in time are a pair.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mfubench.statistics.intervals import student

MOST_REPEATS = 1000  # to be worth proposing


@dataclass(frozen=True)
class Ratio:
    """How many times as much `other` takes as `one`, with its 95 % interval."""

    ratio: float
    low: float
    high: float
    pairs: int
    more_repeats: (
        int | None
    )  # that would resolve a difference of the size seen; 0: it is; None: more than anyone would run

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes that there is no difference."""
        return not self.low <= 1 <= self.high


def paired(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio other / one of positive figures, one of each per repeat, in the order of the repeats.

    Geometric mean of the ratios by pair, Student's t on their logarithms. ValueError for fewer than two pairs, which say
    nothing of how runs differ.
    """
    logs = [math.log(b / a) for a, b in zip(one, other, strict=True)]
    if len(logs) < 2:
        raise ValueError(f"{len(logs)} pair(s) of runs have no spread; give at least two repeats, as repeat=range(3)")
    mean, std = statistics.fmean(logs), statistics.stdev(logs)
    half = student(len(logs)) * std / len(logs) ** 0.5
    more = 0 if abs(mean) > half else _more(abs(mean), std, len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs), more)


def _more(difference: float, std: float, pairs: int) -> int | None:
    """The repeats, besides those there are, after which an interval would exclude 1 if all stayed as it is."""
    for total in range(pairs + 1, pairs + MOST_REPEATS):
        if student(total) * std / total**0.5 < difference:
            return total - pairs
    return None
