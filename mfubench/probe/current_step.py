"""Figures of the current optimizer step: fields for the line that opens the next one.

`optimizer_t` splits a step at the start of its first optimizer event. Before it: forward and backward passes, reduction
and clipping of gradients. After it, up to the next training forward: the update, gathering updated weights, zeroing
gradients, logging. An optimizer that steps in the backward pass starts with the first complete gradient.
"""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from .device_clock import DeviceClock


class CurrentStep:
    """The index of the current step, and its figures so far."""

    def __init__(self) -> None:
        self.index = -1
        self.ended = True  # by the optimizer; the next training forward opens a new one
        self.clock: DeviceClock | None = None  # CUDA only
        self.recomputed_calls = 0  # outermost module calls in the backward passes
        self.own_ns = 0  # the observer's own time on the host
        self._stepped: set[int] = set()  # ids: the first tensor of each parameter group stepped since the last forward
        self._again = 0  # times that one of them stepped again
        self._gradients = 0  # tensors with a gradient when the optimizers had stepped
        self._optimizer_at: int | None = None
        self._optimizing = False  # an optimizer has started to step, and hasn't ended
        self._loading_ns: dict[int, int] = {}  # by thread: only the training thread's waits delay training

    def waited(self, ns: int) -> None:
        """Add a wait of this thread for a DataLoader."""
        thread = threading.get_ident()
        self._loading_ns[thread] = self._loading_ns.get(thread, 0) + ns

    def sees_forward(self) -> None:
        """Note a training forward: as long as they come, they alone open steps."""
        self._stepped.clear()
        self._again = 0
        if self._optimizing:  # in a closure, called by the optimizer: its start doesn't split the step
            self._optimizer_at = None
            if self.clock is not None:
                self.clock.optimizer_starts(known=False)

    def steps_again(self, optimizer: Optimizer) -> int:
        """How often parameters of a step were stepped again with no training forward between; 0: not this time.

        Groups are told by their tensors: sharding libraries put one group after another into the same optimizer.
        """
        groups = {id(group["params"][0]) for group in optimizer.param_groups if group["params"]}
        if self.index < 0 or self._stepped.isdisjoint(groups):
            self._stepped |= groups
            return 0
        self._stepped = groups
        self._again += 1
        return self._again

    def optimizer_starts(self) -> None:
        """Note that an optimizer is about to step, perhaps not the first in this step."""
        self._optimizing = True
        if self._optimizer_at is None:
            self._optimizer_at = time.perf_counter_ns()
            if self.clock is not None:
                self.clock.optimizer_starts()

    def optimizer_ended(self, optimizer: Optimizer) -> None:
        """Count its gradients. By now it has made Python's objects for them, which took several times as long as counting."""
        self._optimizing = False
        self._gradients += sum(p.grad is not None for group in optimizer.param_groups for p in group["params"])

    def ends(self) -> dict[str, Any]:
        """Note the step's first optimizer step. Returns the fields of the `step` line without the time."""
        self.ended = True
        if self.clock is not None:
            peak, kind = torch.cuda.max_memory_allocated(), "cuda_max_allocated"
        else:  # Linux counts KiB
            peak, kind = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process_peak_rss"
        return {"step": self.index, "peak_memory_bytes": peak, "memory_kind": kind, **self.on_device()}

    def opens_next(self, unclocked_ns: int) -> dict[str, Any]:
        """Open the next step, in the training thread. Returns the past step's figures, see `events`.

        `unclocked_ns`: an estimate of the observer's time that `own_ns` lacks.
        """
        thread = threading.get_ident()
        was = {
            "gradients": self._gradients,
            "recomputed_calls": self.recomputed_calls,
            "optimizer_t": self._optimizer_at,
            "loading_ns": self._loading_ns.get(thread),
            "probe_ns": self.own_ns + unclocked_ns,
        }
        self._gradients = self.recomputed_calls = self.own_ns = 0
        self._optimizer_at = None
        if thread in self._loading_ns:
            self._loading_ns[thread] = 0
        self.ended = False
        self.index += 1
        if self.clock is not None:
            self.clock.boundary(self.index)
        return was

    def on_device(self) -> dict[str, Any]:
        """The field `device` of a line; no field without a device clock."""
        return {} if self.clock is None else {"device": self.clock.resolved()}
