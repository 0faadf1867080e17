"""Time step boundaries by the device's own clock, and return the seconds between them once known.

The host runs ahead of a CUDA device, so its clock tells when work was queued. An event is queued with the work and read
only after it has happened: the device is never waited for. Not yet run on CUDA.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Optional, Tuple

import torch

# A step, the seconds from the previous boundary to its own, and those up to the optimizer's start (None: not marked).
Period = Tuple[int, float, Optional[float]]
DEVICE_TIMEOUT_S = 10.0


@dataclass
class _Boundary:
    step: int
    event: torch.cuda.Event
    optimizer: torch.cuda.Event | None = None  # the start of the optimizer that ends this step


class DeviceClock:
    """CUDA events at boundaries, oldest first: the last one that has happened, then the pending ones."""

    def __init__(self) -> None:
        self._boundaries: deque[_Boundary] = deque()
        self.idle = False  # all work is done, as far as `awaited` waited

    def boundary(self, step: int) -> None:
        """Mark the start of `step` on the current stream."""
        self._boundaries.append(_Boundary(step, _recorded_event()))

    def optimizer_starts(self, known: bool = True) -> None:
        """Mark the start of the current step's first optimizer; if it isn't `known`, forget it."""
        if self._boundaries and (not known or self._boundaries[-1].optimizer is None):
            self._boundaries[-1].optimizer = _recorded_event() if known else None

    def resolved(self) -> list[Period]:
        """The periods whose end the device has passed since the last call."""
        periods: list[Period] = []
        while len(self._boundaries) > 1 and self._boundaries[0].event.query() and self._boundaries[1].event.query():
            before, after = self._boundaries.popleft(), self._boundaries[0]
            to_optimizer_s = None
            # An optimizer may be behind, on its own stream.
            if before.optimizer is not None and before.optimizer.query():
                to_optimizer_s = before.event.elapsed_time(before.optimizer) / 1e3
            periods.append((after.step, before.event.elapsed_time(after.event) / 1e3, to_optimizer_s))
        return periods

    def awaited(self) -> list[Period]:
        """As `resolved`, for all boundaries so far. Waits for all work queued, for a limited time, so only after training.

        A device that hangs, in a collective whose peer died, must not keep its process from ending.
        """
        end, deadline = _recorded_event(), time.monotonic() + DEVICE_TIMEOUT_S
        while not end.query() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.idle = end.query()
        return self.resolved()


def capturing() -> bool:
    """True while a CUDA graph is captured: nothing runs then, and reading an event would spoil the capture."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
