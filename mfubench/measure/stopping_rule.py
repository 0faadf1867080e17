"""Decide when a run has been measured long enough.

A rule that stops as soon as an interval looks narrow enough stops too early too often, because it has many chances to be
lucky. This one checks seldom, at sizes that grow by half, asks for more confidence (98 %) than is reported (95 %), and
takes autocorrelation into account. Its coverage is found by simulation, in tests/measure/test_stopping_rule.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Literal

from mfubench.measure.intervals import effective_size, half_width
from mfubench.measure.steady_state import MAD_TO_STD, steadiness

STOPPING_CONFIDENCE = 0.98
GROWTH = 1.5
# Some steps are many times as slow as the others (logging, garbage collection). Either there were enough steps to show them,
# or enough slow ones to know their share of the mean.
SLOW_STEP_SIGMAS = 6.0  # robust standard deviations above the median
MIN_STEPS_WITHOUT_SLOW = 100  # steps
MIN_SLOW_STEPS = 10  # slow steps
MAX_DRIFT_IN_PRECISIONS = 4.0  # a line through steps whose mean is that sure is about 3.5 times as unsure


Because = Literal["sure", "time", "steps"]


@dataclass(frozen=True)
class Rule:
    """Stop when the 95 % interval of the mean step time is within ± `precision` of it, within bounds on steps and seconds."""

    warmup: int  # steps that are never steady
    least: int
    most: int
    precision: float | None  # as a fraction; None: never sure
    seconds: float | None = None  # of steps after the warm-up, once there are `least`; None: no bound


def enough_after(series: Sequence[Sequence[float]], rule: Rule) -> tuple[int, Because] | None:
    """Return the number of steps after which a run has been measured long enough, and why; None if it hasn't.

    It depends on the times alone, so that it gives the same answer during the run and afterwards.

    Args:
        series: step times in s of each rank.
        rule: the bounds and the precision asked for.
    """
    recorded = min((len(times) for times in series), default=0)
    ends: list[tuple[int | None, Because]] = [
        (sure_after(series, rule), "sure"),
        (_time_up(series, rule), "time"),
        (rule.warmup + rule.most, "steps"),
    ]
    reached = [(end, because) for end, because in ends if end is not None and end <= recorded]
    return min(reached, key=lambda each: each[0], default=None)


def _time_up(series: Sequence[Sequence[float]], rule: Rule) -> int | None:
    """Return the number of steps after which the measured ones of some rank have taken the rule's seconds."""
    if rule.seconds is None:
        return None
    ends = []
    for times in series:
        spent = accumulate(times[rule.warmup :])
        reached = [index for index, total in enumerate(spent, start=1) if total >= rule.seconds]
        ends += [rule.warmup + max(reached[0], rule.least)] if reached else []
    return min(ends, default=None)


def check_sizes(rule: Rule) -> Iterator[int]:
    """Yield the numbers of steps after the warm-up at which the rule checks."""
    size = float(rule.least)
    while size < rule.most:
        yield round(size)
        size *= GROWTH


def sure_after(series: Sequence[Sequence[float]], rule: Rule) -> int | None:
    """Return the number of steps after which the mean of every rank is known to the precision asked for; None if not yet."""
    if rule.precision is None:
        return None
    recorded = min((len(times) for times in series), default=0)
    before = False
    for size in check_sizes(rule):
        end = rule.warmup + size
        if end > recorded:
            return None
        start = max(steadiness(times[:end], rule.warmup).start for times in series)
        now = all(_sure(times[start:end], rule, rule.precision) for times in series)
        if now and before and all(_slow_steps_known(times[start:end]) for times in series):
            return end
        before = now
    return None


def _sure(steady: Sequence[float], rule: Rule, precision: float) -> bool:
    found = steadiness(steady)
    if not found.settled or found.drift_at_most is None or effective_size(steady) < rule.least:
        return False
    wide = half_width(steady, STOPPING_CONFIDENCE) / (sum(steady) / len(steady))
    return wide <= precision and found.drift_at_most <= MAX_DRIFT_IN_PRECISIONS * precision


def _slow_steps_known(steady: Sequence[float]) -> bool:
    """Return True if slow steps are frequent enough to have been seen, or would have been seen in some 100 steps."""
    middle = median(steady)
    spread = MAD_TO_STD * median(abs(time - middle) for time in steady)
    slow = sum(time - middle > SLOW_STEP_SIGMAS * spread for time in steady)
    return slow >= MIN_SLOW_STEPS if slow else len(steady) >= MIN_STEPS_WITHOUT_SLOW
