"""The device's own clock at step boundaries. In: the moments of boundaries. Out: seconds between them, when known.

The host runs ahead of a CUDA device, so its clock says when work was queued. An event is queued with the work and read
only after it has happened: the device is never waited for. Not yet run on CUDA.
"""

from __future__ import annotations

from collections import deque

import torch


class DeviceClock:
    """CUDA events at boundaries, oldest first: the last one that has happened, then those still to come."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, torch.cuda.Event]] = deque()

    def boundary(self, step: int) -> None:
        """Marks the start of `step` on the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append((step, event))

    def resolved(self) -> list[tuple[int, float]]:
        """(step, seconds since the boundary before) of the boundaries the device has passed since the last call."""
        found: list[tuple[int, float]] = []
        while len(self._events) > 1 and self._events[0][1].query() and self._events[1][1].query():
            _, before = self._events.popleft()
            step, event = self._events[0]
            found.append((step, before.elapsed_time(event) / 1e3))
        return found

    def awaited(self) -> list[tuple[int, float]]:
        """As `resolved`, for all boundaries so far. Waits for the device: only for when training is over."""
        if self._events:
            self._events[-1][1].synchronize()
        return self.resolved()
