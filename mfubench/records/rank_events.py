"""The events of one process, added one at a time: lines of mfubench/probe/events.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise, takewhile
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class DevicePeriod:
    """A period by the device's clock, and the time when the host heard of its end."""

    period_s: float
    to_optimizer_s: float | None  # part of the period before the optimizer starts; None: not known
    heard_s: float  # the host's monotonic clock


@dataclass
class RankEvents:
    """The steps of one process's last root module; step indices are the probe's.

    A period runs from the first training forward of one optimizer step to that of the next; if the forwards are out of
    sight, between two starts of the optimizer. A period between a forward and an optimizer is no step.
    """

    start: Event | None = None
    work: Event = field(default_factory=dict)
    flops: Event | None = None  # of one step, if the probe counts it
    errors: list[str] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    memory_kind: str | None = None
    forwards: list[list[Event]] = field(default_factory=list)  # all forwards of each step, or its boundary
    on_device: bool = False
    losses_at_exit: Event | None = None  # of the last step: its index and losses
    profiled: bool = False  # the profiler has started: what follows is not of the measured steps
    _on_device: dict[int, DevicePeriod] = field(default_factory=dict)  # by the index of the following step
    _root: int | None = None

    def read(self, lines: bytes) -> None:
        """Add the events in whole lines, up to the first torn one."""
        for line in lines.decode(errors="replace").splitlines():
            try:
                self._take(json.loads(line))
            except json.JSONDecodeError:
                return

    def _take(self, event: Event) -> None:
        if self.profiled:
            return
        if "device" in event and event["event"] != "work":  # in a "work" event "device" is the kind of device
            self.on_device = True
            heard_s = event["t"] / 1e9
            for step, period_s, to_optimizer_s in event["device"]:
                self._on_device[step] = DevicePeriod(period_s, to_optimizer_s, heard_s)
        match event.get("event"):
            case "start":
                self.start = event
            case "root":
                self._root = event["root"]
                self.forwards = []  # earlier ones are of another model, or of this one without its wrapper
            case "forward":
                self._take_forward(event)
            case "boundary" if event["root"] == self._root:
                self.forwards.append([event])
            case "step":
                self.peak_memory_bytes, self.memory_kind = event["peak_memory_bytes"], event["memory_kind"]
            case "work":
                self.work = {key: value for key, value in event.items() if key not in ("event", "root")}
            case "flops":
                self.flops = event
            case "device" if "losses" in event:
                self.losses_at_exit = event
            case "profile":
                self.profiled = True
            case "probe_error":
                self.errors.append(event["error"].strip())

    def _take_forward(self, event: Event) -> None:
        if event["root"] != self._root:
            error = f"models {event['root']} and {self._root} of this process both trained"
            if event["root"] == -1:
                error = "the model was also trained past its wrapper, in forwards that no step counts"
            if error not in self.errors:
                self.errors.append(error)
            return
        if not self.forwards or event["step"] != self.forwards[-1][0]["step"]:
            self.forwards.append([])
        self.forwards[-1].append(event)

    @property
    def measured(self) -> list[list[Event]]:
        """The steps in the longest series with boundaries of one kind."""
        series = (list(steps) for _, steps in groupby(self.forwards, key=lambda step: step[0]["event"]))
        return max(series, key=len, default=[])

    @property
    def boundaries(self) -> list[Event]:
        """The event that begins each measured step: its first forward, or the start of its optimizer."""
        return [step[0] for step in self.measured]

    @property
    def device_periods(self) -> list[DevicePeriod]:
        """Periods by the device's clock, up to the first gap."""
        steps = (boundary["step"] for boundary in self.boundaries[1:])
        return [self._on_device[step] for step in takewhile(self._on_device.__contains__, steps)]

    @property
    def losses(self) -> list[list[float | None] | None]:
        """The losses of each step, a value per micro-batch; None: not read. On a device the last step may have some, too."""
        found = [after["before"].get("losses") for after in self.boundaries[1:]]
        last = self.losses_at_exit
        if last is not None and self.boundaries and self.boundaries[-1]["step"] == last["step"]:
            found.append(last["losses"])
        return found

    @property
    def step_times_s(self) -> list[float]:
        """Seconds of the complete periods, by the device's clock if it has one, else by the host's."""
        if self.on_device:
            return [period.period_s for period in self.device_periods]
        return [(after["t"] - before["t"]) / 1e9 for before, after in pairwise(self.boundaries)]

    @property
    def periods(self) -> int:
        """Number of complete periods; on a device, of those whose end its clock has confirmed."""
        return len(self.step_times_s)
