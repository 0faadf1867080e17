"""The timeline of a profile: the raw columns of probe/step_profile.py brought to spans of work, a window and its gaps. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mfubench.explain.categories import Kind
from mfubench.explain.exclusive import Span, innermost
from mfubench.explain.explanation import Gap
from mfubench.explain.kernels import kind
from mfubench.explain.waterfall import Device

WIDEST = 5  # gaps that are listed
OPTIMIZER = re.compile(r"^Optimizer\.step#")
GRAPH_LAUNCH = re.compile(r"^(cuda|hip|cu)GraphLaunch")
GENERATED = re.compile(r"^(## Call CompiledFxGraph) \w+ ##$")  # with the hash of the code


class NoProfile(ValueError):
    """A profile that isn't there, or lacks the events that it should have, with the reason."""


@dataclass(frozen=True)
class Timeline:
    """The work of a rank in its profiled steps; times are in ns."""

    steps: int
    start: int
    end: int
    spans: Sequence[Span]  # of work, some of it outside the window
    calls: Mapping[Kind, int]  # kernels, or operators of a CPU, begun in the window
    gaps: Sequence[Gap]  # the widest
    graphs: bool  # a CUDA graph was replayed


def timeline(content: Mapping[str, Any], device: Device) -> Timeline:
    """Return the timeline of a rank's file.

    On a GPU the window is cut by the first kernels that were launched after the host's boundaries: the host is ahead of it.

    Raises:
        NoProfile: the file says why there is none, or lacks kernels.
    """
    if "skipped" in content:
        raise NoProfile(content["skipped"])
    names: Sequence[str] = [GENERATED.sub(r"\1", name) for name in content["names"]]
    host = list(zip(*content["host"].values(), strict=True))
    marks = content["boundaries"]
    updates = _merged((start, start + length) for name, start, length, *_ in host if OPTIMIZER.match(names[name]))
    if device == "cpu":
        spans, begun, start, end = *_of_operators(names, host, updates), marks[0], marks[-1]
    else:
        spans, launched = _of_kernels(names, host, content["device"], updates)
        start, end = _window(spans, launched, marks)
        begun = spans
    return Timeline(
        steps=len(marks) - 1,
        start=start,
        end=end,
        spans=spans,
        calls=Counter(span.kind for span in begun if start <= span.start < end),
        gaps=_gaps(spans, start, end, [(names[name], at, at + length) for name, at, length, *_ in host]),
        graphs=any(GRAPH_LAUNCH.match(name) for name in names),
    )


def _of_operators(
    names: Sequence[str], host: Sequence[Sequence[int]], updates: Sequence[tuple[int, int]]
) -> tuple[list[Span], list[Span]]:
    """Return the spans of the innermost operators of each thread and of collectives, and those of all operators.

    A function of autograd that is written in Python, and a range, is where the host dispatches: its own time is none of work.
    """
    threads: dict[int, list[Span]] = defaultdict(list)
    collectives = []
    for number, start, length, thread, scope, asynchronous in host:
        found = kind(names[number], "", _phase(start, updates))
        if found is None or (found.category == "other" and not (scope == 0 and "::" in names[number])):
            continue
        span = Span(start, start + length, found)
        if asynchronous:
            collectives.append(span)
        else:
            threads[thread].append(span)
    every = [span for spans in threads.values() for span in spans]
    return [span for spans in threads.values() for span in innermost(spans)] + collectives, every + collectives


def _of_kernels(
    names: Sequence[str],
    host: Sequence[Sequence[int]],
    device: Mapping[str, Sequence[Any]],
    updates: Sequence[tuple[int, int]],
) -> tuple[list[Span], list[int]]:
    """Return the spans of kernels, copies and fills, and the host's time when each was launched."""
    spans, launches = [], []
    for number, start, length, _, row, launched in zip(*device.values(), strict=True):
        operator = names[host[row][0]] if row >= 0 else ""
        at = launched if launched is not None else host[row][1] if row >= 0 else start
        found = kind(names[number], operator, _phase(at, updates))
        if found is not None:
            spans.append(Span(start, start + length, found))
            launches.append(at)
    if not spans:
        raise NoProfile("the profiler saw no kernel: another program, such as a profiler around the run, holds CUPTI")
    return spans, launches


def _window(spans: Sequence[Span], launched: Sequence[int], marks: Sequence[int]) -> tuple[int, int]:
    """Return the starts of the first kernels launched after the first and after the last boundary."""
    each = [
        [span.start for span, at in zip(spans, launched, strict=True) if at >= mark] for mark in (marks[0], marks[-1])
    ]
    if not each[1]:
        raise NoProfile(
            "the profiler lost the last kernels: its buffers were full; measurement.profile_steps=1 needs less"
        )
    return min(each[0]), min(each[1])


def _gaps(spans: Sequence[Span], start: int, end: int, host: Sequence[tuple[str, int, int]]) -> tuple[Gap, ...]:
    """Return the widest stretches of the window without work, each with the innermost operator or range of its middle."""
    busy = _merged((span.start, span.end) for span in spans)
    edges = [start, *(min(max(edge, start), end) for span in busy for edge in span), end]
    widest = sorted(zip(edges[::2], edges[1::2], strict=True), key=lambda gap: gap[0] - gap[1])[:WIDEST]
    found = []
    for begin, stop in widest:
        middle = (begin + stop) // 2
        around = [(at, name) for name, at, until in host if at <= middle < until]
        if stop > begin:
            found.append(Gap((stop - begin) / 1e9, max(around, default=(0, ""))[1]))
    return tuple(found)


def _merged(intervals: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of intervals, in order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _phase(at: int, updates: Sequence[tuple[int, int]]) -> str:
    """Return "optimizer" for a time inside one of the optimizer's steps."""
    index = bisect_right(updates, at, key=lambda interval: interval[0]) - 1
    return "optimizer" if index >= 0 and at < updates[index][1] else ""
