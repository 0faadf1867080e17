"""The device's own clock at step boundaries. In: the moments of boundaries. Out: seconds between them, when known.

The host runs ahead of a CUDA device, so its clock says when work was queued. An event is queued with the work and read
only after it has happened: the device is never waited for. Not yet run on CUDA.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Optional, Tuple

import torch

# A step, seconds from the boundary before to its own, and how many of these to the optimizer's start; None: not marked.
Period = Tuple[int, float, Optional[float]]
DEVICE_TIMEOUT_S = 10.0


@dataclass
class _Boundary:
    step: int
    event: torch.cuda.Event
    optimizer: torch.cuda.Event | None = None  # where the optimizer starts that ends this step


class DeviceClock:
    """CUDA events at boundaries, oldest first: the last one that has happened, then those still to come."""

    def __init__(self) -> None:
        self._boundaries: deque[_Boundary] = deque()

    def boundary(self, step: int) -> None:
        """Marks the start of `step` on the current stream."""
        self._boundaries.append(_Boundary(step, _recorded_event()))

    def optimizer_starts(self) -> None:
        """Marks where the optimizer starts in the current step, the first time in it."""
        if self._boundaries and self._boundaries[-1].optimizer is None:
            self._boundaries[-1].optimizer = _recorded_event()

    def resolved(self) -> list[Period]:
        """The periods that end with boundaries the device has passed since the last call."""
        periods: list[Period] = []
        while len(self._boundaries) > 1 and self._boundaries[0].event.query() and self._boundaries[1].event.query():
            before, after = self._boundaries.popleft(), self._boundaries[0]
            to_optimizer_s = None
            # An optimizer may have its own stream, and be behind.
            if before.optimizer is not None and before.optimizer.query():
                to_optimizer_s = before.event.elapsed_time(before.optimizer) / 1e3
            periods.append((after.step, before.event.elapsed_time(after.event) / 1e3, to_optimizer_s))
        return periods

    def awaited(self) -> list[Period]:
        """As `resolved`, for all boundaries so far. Waits for the device, a while: only for when training is over.

        A device that stands still, in a collective whose peer died, must not keep its process from ending.
        """
        deadline = time.monotonic() + DEVICE_TIMEOUT_S
        while self._boundaries and not self._boundaries[-1].event.query() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.resolved()


def capturing() -> bool:
    """True if what is called now is put into a CUDA graph: nothing of it runs, and reading an event would spoil it."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
