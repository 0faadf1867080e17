"""The order in which a device's events are read, with events that happen when the test says so."""

from __future__ import annotations

import pytest
import torch

from mfubench.probe.device_clock import DeviceClock


class Event:
    """A CUDA event as the clock uses it; waiting for one is not offered."""

    happened_ms: dict[int, float]  # by the order of recording
    recorded: list[Event]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.number = len(Event.recorded)
        Event.recorded.append(self)

    def query(self) -> bool:
        return self.number in Event.happened_ms

    def elapsed_time(self, later: Event) -> float:
        return Event.happened_ms[later.number] - Event.happened_ms[self.number]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> DeviceClock:
    Event.happened_ms, Event.recorded = {}, []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return DeviceClock()


def test_boundaries_are_told_once_and_only_after_the_device_has_passed_them(clock: DeviceClock) -> None:
    for step in range(4):
        clock.boundary(step)
    assert clock.resolved() == []
    Event.happened_ms[0] = 10.0
    assert clock.resolved() == []
    Event.happened_ms.update({1: 210.0, 2: 460.0})
    assert clock.resolved() == [(1, 0.2), (2, 0.25)]
    assert clock.resolved() == []
    Event.happened_ms[3] = 760.0
    assert clock.resolved() == [(3, 0.3)]
