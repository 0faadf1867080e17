"""When a run has been measured long enough. In: the step times so far. Out: after how many of them the mean is sure.

A rule that stops when an interval looks narrow enough stops too early too often: it has many chances to be lucky. Here it
looks seldom, at sizes that grow by half, asks more of itself (98 %) than of what is reported (95 %), and doesn't take
neighbouring steps for independent. What that keeps is found by simulation, in tests/statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mfubench.statistics.intervals import effective_size, half_width
from mfubench.statistics.steadiness import steadiness

INTERNAL = 0.98
GROWTH = 1.5
DRIFT = 4.0  # of the precision: a line through steps whose mean is that sure is about 3.5 times as unsure


@dataclass(frozen=True)
class Rule:
    """When to stop: the 95 % interval of the mean step within ± `precision` of it, between so many steady steps."""

    warmup: int  # steps that are never steady
    least: int
    most: int
    precision: float | None  # as a fraction; None: always `most`


def looks(rule: Rule) -> Iterator[int]:
    """The numbers of steps after the warm-up at which the rule looks."""
    size = float(rule.least)
    while size < rule.most:
        yield round(size)
        size *= GROWTH


def sure_after(series: Sequence[Sequence[float]], rule: Rule) -> int | None:
    """After how many step times, of each rank's, the mean of every rank is sure; None: not yet.

    It depends on the times alone, so that it says the same of a run while it goes on and afterwards.
    """
    if rule.precision is None:
        return None
    recorded = min((len(times) for times in series), default=0)
    before = False
    for size in looks(rule):
        end = rule.warmup + size
        if end > recorded:
            return None
        now = all(_sure(times[:end], rule, rule.precision) for times in series)
        if now and before:
            return end
        before = now
    return None


def _sure(times: Sequence[float], rule: Rule, precision: float) -> bool:
    found = steadiness(times, rule.warmup)
    steady = times[found.start :]
    if not found.settled or found.drift_at_most is None or effective_size(steady) < rule.least:
        return False
    wide = half_width(steady, INTERNAL) / (sum(steady) / len(steady))
    return wide <= precision and found.drift_at_most <= DRIFT * precision
