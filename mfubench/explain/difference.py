"""The difference of two settings' step times, in ms by category: why one takes longer than the other."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mfubench.explain.categories import CATEGORIES, short_name
from mfubench.explain.explanation import REST
from mfubench.explain.waterfall import StepTime
from mfubench.measure.intervals import student

# Of twelve categories tested at 95 % each, one or more would differ between equal settings in 46 % of cases.
CONFIDENCE = 1 - 0.05 / len(CATEGORIES)
Basis = Literal["pairs", "runs", "single"]


@dataclass(frozen=True)
class Change:
    """The time of one setting less the other's, in s."""

    seconds: float
    half: float | None  # of its interval at CONFIDENCE; None for single runs

    @property
    def resolved(self) -> bool:
        """True if repeats show that it isn't zero."""
        return self.half is not None and abs(self.seconds) > self.half


@dataclass(frozen=True)
class Difference:
    """The mean step time of one setting less the other's."""

    seconds: float
    categories: Mapping[str, Change]  # they add up to `seconds`
    kernels: Sequence[tuple[str, float]]  # short names and s of the three that make most of it
    basis: Basis


def difference(one: Sequence[StepTime], other: Sequence[StepTime], basis: Basis) -> Difference:
    """Return the difference one - other of two settings' runs.

    Student's t interval over pairs (runs made in turns, in the same order), Welch's (1947) over runs that aren't; none over
    single ones. Each category is tested so that all of them together hold at 95 %.
    """
    times = [[run.categories for run in runs] for runs in (one, other)]
    changes = {}
    for name in dict.fromkeys((*CATEGORIES, *(name for runs in times for each in runs for name in each))):
        first, second = ([categories.get(name, 0.0) for categories in runs] for runs in times)
        if any(first) or any(second):
            changes[name] = Change(statistics.fmean(first) - statistics.fmean(second), _half(first, second, basis))
    total = statistics.fmean(run.seconds for run in one) - statistics.fmean(run.seconds for run in other)
    return Difference(total, changes, _largest(one, other, changes, total), basis)


def sentence(found: Difference, one: str, other: str) -> str:
    """Say the difference in a sentence: "A takes 33 ms more than B: idle +21, elementwise +9, loss +4, matmul −1".

    Of repeated runs, the categories that they resolve.
    """
    digits = 0 if abs(found.seconds) >= 0.01 else 2

    def signed(seconds: float) -> str:
        return f"{seconds * 1e3:+.{digits}f}".replace("-", "−")

    def whole(seconds: float) -> float:
        return round(seconds * 1e3, digits)

    shown = {
        name: change.seconds
        for name, change in sorted(found.categories.items(), key=lambda each: -abs(each[1].seconds))
        if whole(change.seconds) and (change.resolved or found.basis == "single")
    }
    rest = whole(found.seconds) - sum(whole(seconds) for seconds in shown.values())
    parts = [f"{name} {signed(seconds)}" for name, seconds in shown.items()]
    if shown and whole(rest / 1e3):
        parts.append(f"all others {signed(rest / 1e3)}")
    more = "more" if found.seconds >= 0 else "less"
    said = f"{one} takes {abs(found.seconds) * 1e3:.{digits}f} ms {more} than {other}"
    if parts:
        said += f": {', '.join(parts)}"
    elif found.basis != "single":
        said += "; no category's difference is resolved"
    said += " (single runs)" if found.basis == "single" else ""
    most = ", ".join(f"{name} {signed(seconds)}" for name, seconds in found.kernels if whole(seconds))
    return f"{said}. Largest by name: {most}." if most else f"{said}."


def _half(one: Sequence[float], other: Sequence[float], basis: Basis) -> float | None:
    """Return half the interval's width of the difference of means."""
    if basis == "single":
        return None
    if basis == "pairs":
        apart = [a - b for a, b in zip(one, other, strict=True)]
        return student(len(apart), CONFIDENCE) * statistics.stdev(apart) / len(apart) ** 0.5
    a, b = (statistics.variance(values) / len(values) for values in (one, other))
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    return student(freedom + 1, CONFIDENCE) * (a + b) ** 0.5


def _largest(
    one: Sequence[StepTime], other: Sequence[StepTime], changes: Mapping[str, Change], total: float
) -> list[tuple[str, float]]:
    """Return the three kernels that make most of the difference, in its direction.

    A kernel counts for no more than its category: two libraries' matmuls of different names cancel each other.
    """
    apart: dict[tuple[str, str], float] = defaultdict(float)
    for runs, sign in ((one, 1), (other, -1)):
        for run in runs:
            for kind, seconds in run.kinds.items():
                if kind.category != "idle" and kind.name != REST:
                    apart[kind.category, short_name(kind.name)] += sign * seconds / len(runs)
    way = 1 if total >= 0 else -1
    worth = {each: min(way * apart[each], way * changes[each[0]].seconds) for each in apart}
    found = sorted((each for each in worth if worth[each] > 0), key=lambda each: -worth[each])[:3]
    return [(name, apart[category, name]) for category, name in found]
