"""Steps by a device's clock, with a stand-in for CUDA whose work is done when the test says so. Not yet run on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mfubench.measure.step_breakdown import step_breakdown
from mfubench.probe.device_clock import DeviceClock
from mfubench.probe.events import Writer
from mfubench.probe.observer import Observer
from mfubench.records.reading import read_records

IDS = torch.zeros(2, 8, dtype=torch.int64)


class Event:
    """A CUDA event as the clock uses it; waiting for one is not offered."""

    happened_ms: dict[int, float]  # by the order of recording
    recorded: list[Event]

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        assert not torch.cuda.is_current_stream_capturing()
        self.number = len(Event.recorded)
        Event.recorded.append(self)

    def query(self) -> bool:
        assert not torch.cuda.is_current_stream_capturing()
        return self.number in Event.happened_ms

    def elapsed_time(self, later: Event) -> float:
        return Event.happened_ms[later.number] - Event.happened_ms[self.number]


class OnCuda(nn.Parameter):
    """A parameter that says that it is on CUDA."""

    is_cuda = True


class Model(nn.Module):
    """Never run: the test calls the observer as a call of it would."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.weight = OnCuda(torch.zeros(3))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Puts the stand-in in CUDA's place. Its last item says whether the current stream captures a graph."""
    state = [False]
    Event.happened_ms, Event.recorded = {}, []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state[-1])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a stand-in")
    return state


@pytest.fixture
def clock(captures: list[bool]) -> DeviceClock:
    return DeviceClock()


@pytest.fixture
def train(tmp_path: Path, captures: list[bool]) -> Callable[[], None]:
    """Queues one step of a model, as the observer sees it."""
    observer, model = Observer(Writer(str(tmp_path)), profile_flops=False), Model()
    optimizer = torch.optim.SGD(model.parameters())

    def step() -> None:
        if observer.outermost_call(model, (IDS,), {}):
            observer.root_returned()
        observer.optimizer_starts(optimizer)
        observer.optimizer_ended(optimizer)

    return step


def test_boundaries_are_told_once_and_only_after_the_device_has_passed_them(clock: DeviceClock) -> None:
    for step in range(4):
        clock.boundary(step)
    assert clock.resolved() == []
    Event.happened_ms[0] = 10.0
    assert clock.resolved() == []
    Event.happened_ms.update({1: 210.0, 2: 460.0})
    assert clock.resolved() == [(1, 0.2, None), (2, 0.25, None)]
    assert clock.resolved() == []
    Event.happened_ms[3] = 760.0
    assert clock.resolved() == [(3, 0.3, None)]


def test_the_optimizers_start_is_the_first_in_a_step_and_may_be_on_a_stream_that_is_behind(clock: DeviceClock) -> None:
    clock.optimizer_starts()  # before any training
    for step in range(3):
        clock.boundary(step)
        clock.optimizer_starts()
        clock.optimizer_starts()
    # In the order of recording: boundary, optimizer, boundary, optimizer, boundary, optimizer.
    Event.happened_ms = {0: 10.0, 1: 90.0, 2: 110.0, 4: 310.0}
    assert clock.resolved() == [(1, 0.1, 0.08), (2, 0.2, None)]


def test_a_host_that_runs_ahead_is_told_the_devices_steps_as_they_end(
    train: Callable[[], None], tmp_path: Path
) -> None:
    for _ in range(6):  # queued within milliseconds
        train()
    assert read_records(tmp_path).ranks[0].step_times_s == ()
    for step in range(6):  # 100 ms each, of which 70 to the optimizer
        Event.happened_ms |= {2 * step: 100.0 * step, 2 * step + 1: 100.0 * step + 70}
    train()
    (rank,) = read_records(tmp_path).ranks
    assert rank.errors == ()
    assert rank.step_times_s == pytest.approx((0.1,) * 5)
    told = step_breakdown(rank, 1, 4)
    assert told.forward_to_optimizer_s == pytest.approx(0.07)
    assert told.optimizer_to_forward_s == pytest.approx(0.03)
    assert rank.memory_kind == "cuda_max_allocated"


def test_what_is_put_into_a_cuda_graph_is_no_step_and_leaves_the_graph_whole(
    train: Callable[[], None], captures: list[bool], tmp_path: Path
) -> None:
    train()
    captures.append(True)
    train()  # nothing of this runs, and an event recorded or looked at would spoil the capture
    captures.append(False)
    train()
    Event.happened_ms = {n: 10.0 * n for n in range(4)}
    train()
    (rank,) = read_records(tmp_path).ranks
    assert rank.errors == ()
    assert len(Event.recorded) == 6  # two in each step that ran
    assert rank.step_times_s == pytest.approx((0.02,))
    assert [len(step) for step in rank.micro_batches] == [1]


def test_a_root_that_replays_a_graph_is_seen_without_any_call_inside_it(
    train: Callable[[], None], tmp_path: Path
) -> None:
    """A compiled root whose inside is one replay: its own call is all that Python sees, and the steps are there."""
    for step in range(5):
        train()
        Event.happened_ms |= {2 * step: 20.0 * step, 2 * step + 1: 20.0 * step + 15}
    train()
    (rank,) = read_records(tmp_path).ranks
    assert rank.step_times_s == pytest.approx((0.02,) * 4)
    assert rank.work["device"] == "cuda"


def test_nothing_on_a_cpu_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    from mfubench.probe.device_clock import capturing

    def fail(*_: Any) -> bool:
        raise AssertionError("a build without CUDA can't be asked this")

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", fail)
    assert capturing() is False
