"""Numbers that were read now and then: times and readings in, what they say of a stretch of time out. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

LEAST_LOOKS = 2  # in a window, to say anything of it
Window = tuple[float, float]  # begin and end, in seconds of the monotonic clock (time.perf_counter, on Linux)


def inside(times: Sequence[float], window: Window | None) -> slice:
    """Which readings lie in the window, both ends included; all of them when it is None."""
    if window is None:
        return slice(0, len(times))
    begin, end = window
    return slice(bisect_left(times, begin), bisect_right(times, end))


def gained(times: Sequence[float], counter: Sequence[float | None], window: Window | None) -> float | None:
    """How much a counter grew in the window (None: from the first reading to the last), by straight lines between the
    readings. None where it wasn't read on both sides of the window, or went backwards."""
    read = [(at, value) for at, value in zip(times, counter, strict=True) if value is not None]
    if len(read) < 2:
        return None
    begin, end = window or (read[0][0], read[-1][0])
    if begin < read[0][0] or end > read[-1][0]:
        return None
    grown = _at(read, end) - _at(read, begin)
    return grown if grown >= 0 else None


def mean(values: Sequence[float | None]) -> float | None:
    """Of the readings that there are."""
    read = [value for value in values if value is not None]
    return sum(read) / len(read) if read else None


def _at(read: Sequence[tuple[float, float]], when: float) -> float:
    """The counter at a time between two readings."""
    after = min(max(bisect_right(read, when, key=lambda pair: pair[0]), 1), len(read) - 1)
    (t0, v0), (t1, v1) = read[after - 1], read[after]
    return v0 + (v1 - v0) * (when - t0) / (t1 - t0)
