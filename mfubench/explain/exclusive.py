"""The exclusive times of a profiled step: each moment of a rank belongs to exactly one category."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mfubench.explain.categories import Kind

IDLE = Kind("idle", "idle", "transfer")


@dataclass(frozen=True)
class Span:
    """A kernel, copy, collective or operator, from `start` to `end`; times are in ns of any clock."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True)
class Exclusive:
    """Exclusive times of a window, in ns."""

    kinds: Mapping[Kind, float]  # idle among them; they add up to the window
    hidden_communication: int  # beside computation: in none of the above


def by_category(kinds: Mapping[Kind, float]) -> dict[str, float]:
    """Add up times by category; those that occur."""
    total: dict[str, float] = defaultdict(float)
    for kind, time in kinds.items():
        total[kind.category] += time
    return dict(total)


def exclusive(spans: Sequence[Span], start: int, end: int) -> Exclusive:
    """Share each moment from `start` to `end` among the spans that run in it, of all streams or threads.

    Computation running: equally among its spans. Else a collective, else a copy of the device's own, else idle. Operators that
    contain each other must have been through `innermost`.
    """
    inside = [span for span in spans if span.start < end and span.end > start]
    cuts = [(max(span.start, start), 1, span.kind) for span in inside]
    cuts += [(min(span.end, end), -1, span.kind) for span in inside]
    times: dict[Kind, float] = defaultdict(float)
    running: dict[str, Counter[Kind]] = {"compute": Counter(), "collective": Counter(), "transfer": Counter()}
    hidden, now = 0, start
    for cut, change, kind in [*sorted(cuts, key=lambda each: each[0]), (end, 0, IDLE)]:
        if cut > now:
            among = next((kinds for kinds in running.values() if kinds), Counter({IDLE: 1}))
            for each, count in among.items():
                times[each] += (cut - now) * count / among.total()
            if running["compute"] and running["collective"]:
                hidden += cut - now
            now = cut
        if change:
            of_rank = running[kind.rank]
            of_rank[kind] += change
            if not of_rank[kind]:
                del of_rank[kind]
    return Exclusive(dict(times), hidden)


def innermost(operators: Sequence[Span]) -> list[Span]:
    """Cut the operators of one thread, which contain each other, into spans of the innermost one: their self times."""
    found: list[Span] = []
    stack: list[Span] = []
    now = 0

    def advance(to: int) -> None:
        nonlocal now
        if stack and to > now:
            found.append(Span(now, to, stack[-1].kind))
        now = max(now, to)

    for operator in sorted(operators, key=lambda each: (each.start, -each.end)):
        while stack and stack[-1].end <= operator.start:
            advance(stack[-1].end)
            stack.pop()
        advance(operator.start)
        stack.append(operator)
    while stack:
        advance(stack[-1].end)
        stack.pop()
    return found
