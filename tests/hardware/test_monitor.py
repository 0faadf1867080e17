"""The machine while a run goes on: the kernel's own counters, and a stand-in for NVIDIA's library, of which none is here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from mfubench.hardware.conditions import CpuConditions, GpuConditions, counter_increase, troubles, window_slice
from mfubench.hardware.machine import Machine
from mfubench.hardware.monitor import start_monitor
from mfubench.hardware.monitor_cpu import TICKS_PER_SECOND, CpuMonitor, core_seconds
from mfubench.hardware.monitor_gpu import GpuMonitor


class Refused(Exception):
    """What the driver says of something that a GPU doesn't have."""


class OldDriver(Exception):
    """What the library says where the driver is too old for a function."""


class Everything:
    """What the most silent driver lacks: all but the GPU itself."""

    def __contains__(self, question: object) -> bool:
        return question not in ("nvmlInit", "nvmlDeviceGetHandleByUUID")


class Driver(SimpleNamespace):
    """As pynvml, of one GPU whose state a test sets: milliwatts, millijoules, bits of reasons."""

    NVMLError, NVMLLibraryMismatchError = Refused, OldDriver
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = range(4)
    nvmlEventTypeXidCriticalError = 8

    def __getattr__(self, question: str) -> Any:
        def refuse(*_: Any) -> None:
            raise Refused(question)

        def next_event(_: Any, timeout_ms: int) -> Any:
            assert timeout_ms == 0  # nobody waits beside a run
            return SimpleNamespace(eventData=self.xids.pop(0)) if self.xids else refuse()

        answers = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlEventSetCreate": lambda: "events",
            "nvmlEventSetFree": lambda _: None,
            "nvmlDeviceRegisterEvents": lambda *_: None,
            "nvmlEventSetWait": next_event,
            "nvmlDeviceGetClockInfo": lambda *_: self.clock,
            "nvmlDeviceGetPowerUsage": lambda _: self.power,
            "nvmlDeviceGetTemperature": lambda *_: self.heat,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: self.reasons,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _: self.reasons,
            "nvmlDeviceGetTemperatureV": lambda *_: self.heat,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=pid) for pid in self.pids],
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: self.energy,
            "nvmlDeviceGetTotalEccErrors": lambda *_: self.errors,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 300_000,
        }
        return refuse if question in self.lacking else answers.get(question, refuse)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A GPU that does its work, and a clock that goes on by itself by a nanosecond a look."""
    made = Driver(
        now=0.0, clock=1980, power=650_000, heat=60, reasons=0x1, pids=[], energy=0, errors=2, xids=[], lacking=()
    )
    monkeypatch.setitem(sys.modules, "pynvml", made)
    ticks = count(1)
    clock = SimpleNamespace(perf_counter=lambda: made.now + 1e-9 * next(ticks))
    monkeypatch.setattr("mfubench.hardware.monitor_gpu.time", clock)
    return made


@pytest.fixture
def rank() -> Iterator[int]:
    """The id of a process that descends from this one, by another that sleeps, too."""
    program = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        yield (pid := int(parent.stdout.readline()))
        os.kill(pid, 9)


def one(found: tuple[GpuConditions, ...]) -> GpuConditions:
    (conditions,) = found
    return conditions


# Looks, and the steady steps between them


def test_a_counter_grows_by_straight_lines_between_looks() -> None:
    """0 at 0 s, 100 at 10 s, 400 at 20 s: 50 by 5 s and 250 by 15 s, so 200 between them."""
    times, counter = [0.0, 10.0, 20.0], [0.0, 100.0, 400.0]
    assert counter_increase(times, counter, (5.0, 15.0)) == 200.0
    assert counter_increase(times, counter, (0.0, 20.0)) == counter_increase(times, counter, None) == 400.0
    assert counter_increase(times, counter, (10.0, 10.0)) == 0.0
    assert counter_increase(times, [0.0, None, 400.0], (5.0, 15.0)) == 200.0
    assert counter_increase(times, counter, (5.0, 21.0)) is None  # nobody looked that late
    assert counter_increase(times, [5.0, 0.0, 1.0], None) is None  # it was reset
    assert counter_increase(times, [None, None, 7.0], None) is None


def test_looks_at_the_ends_of_the_window_are_in_it() -> None:
    times = [0.0, 1.0, 2.0, 3.0]
    assert times[window_slice(times, (1.0, 2.5))] == [1.0, 2.0]
    assert times[window_slice(times, (0.5, 3.0))] == [1.0, 2.0, 3.0]
    assert times[window_slice(times, (2.1, 2.9))] == []
    assert times[window_slice(times, None)] == times


# GPUs


def test_a_gpu_is_described_by_the_looks_at_its_steady_steps(driver: Driver) -> None:
    """A look a second. Power 650 W in the warm-up, to 3 s; then 400 W. Steady from 2.5 s to 6.5 s: the looks at 3, 4, 5
    and 6 s, of which one is power-capped and one hot as well; 0.5 s x 650 W + 3.5 s x 400 W = 1725 J."""
    watch = GpuMonitor(["GPU-1"])
    for second in range(1, 9):
        driver.now = float(second)
        driver.energy += 650_000 if second <= 3 else 400_000
        driver.power = 650_000 if second < 3 else 400_000
        driver.clock, driver.reasons, driver.heat = {
            1: (2000, 0x8, 99),
            5: (1500, 0x4, 70),
            6: (1400, 0x44, 88),
        }.get(second, (1980, 0x1, 60))
        watch.sample()
    seen = one(watch.conditions((2.5, 6.5)))
    assert (seen.uuid, seen.looks) == ("GPU-1", 4)
    assert (seen.sm_clock_mhz_mean, seen.sm_clock_mhz_min) == ((1980 * 2 + 1500 + 1400) / 4, 1400)
    assert (seen.power_w_mean, seen.temperature_c_max) == (400.0, 88)
    assert (seen.power_limit_w, seen.power_limit_default_w) == (300.0, None)  # not told
    assert seen.throttled is not None and {reason: share for reason, share in seen.throttled.items() if share} == {
        "software power cap": 0.5,
        "hardware thermal slowdown": 0.25,
    }
    assert seen.energy_j == pytest.approx(1725.0)


def test_a_run_without_steady_steps_is_described_as_a_whole(driver: Driver) -> None:
    watch = GpuMonitor(["GPU-1"])
    driver.now, driver.energy = 10.0, 5_000
    seen = one(watch.conditions(None))
    assert (seen.looks, seen.energy_j, seen.power_w_mean) == (2, 5.0, 650.0)


def test_steady_steps_with_one_look_or_none_have_no_means_but_the_run_has_its_errors(driver: Driver) -> None:
    watch = GpuMonitor(["GPU-1"])
    driver.now, driver.errors = 1.0, 3
    watch.sample()
    driver.now = 2.0
    seen = one(watch.conditions((0.9, 1.1)))
    assert (seen.looks, seen.power_w_mean, seen.throttled, seen.energy_j) == (1, None, None, None)
    assert seen.sm_clock_mhz_min is seen.temperature_c_max is None
    assert seen.memory_errors == 1


def test_errors_are_told_before_and_during_the_run_to_its_end(driver: Driver) -> None:
    watch = GpuMonitor(["GPU-1"])
    driver.xids = [63, 94]
    watch.sample()
    driver.xids, driver.errors = [94], 5
    seen = one(watch.conditions(None))
    assert (seen.memory_errors_before, seen.memory_errors, seen.xids) == (2, 3, (63, 94, 94))


def test_a_process_is_foreign_that_was_there_first_came_from_elsewhere_or_is_there_afterwards(
    driver: Driver, rank: int
) -> None:
    with subprocess.Popen(["true"]) as over:
        over.wait()
    driver.pids = [11]
    watch = GpuMonitor(["GPU-1"])
    driver.pids = [11, rank, over.pid]  # ours, and one that ended between being listed and being looked for
    watch.sample()
    driver.pids = [rank, os.getppid()]
    watch.sample()
    driver.pids = [44]
    seen = one(watch.conditions(None))
    assert seen.foreign_processes == tuple(sorted((11, 44, os.getppid())))
    assert seen.unrecognised_processes == 0


def test_ids_of_another_namespace_are_only_counted(driver: Driver) -> None:
    """In a container the driver may list ids of the machine outside, where none is one of ours: a rank and two more."""
    watch = GpuMonitor(["GPU-1"])
    driver.pids = [os.getppid()]
    watch.sample()
    alone = one(watch.conditions(None))
    assert alone.unrecognised_processes == 0
    watch = GpuMonitor(["GPU-1"])
    driver.pids = [os.getppid(), 2**22 + 1, 2**22 + 2, 2**22 + 3]  # the first was there before
    watch.sample()
    driver.pids = []
    seen = one(watch.conditions(None))
    assert (seen.foreign_processes, seen.unrecognised_processes) == ((os.getppid(),), 2)


def test_a_driver_that_tells_nothing_leaves_nothing_but_the_looks(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "lacking", Everything())
    watch = GpuMonitor(["GPU-1"])
    watch.sample()
    seen = one(watch.conditions(None))
    told = {name: value for name, value in vars(seen).items() if value is not None}
    assert told == {"uuid": "GPU-1", "looks": 3, "foreign_processes": (), "unrecognised_processes": 0}


def test_a_driver_that_has_only_the_newer_names_is_understood(driver: Driver) -> None:
    driver.lacking = ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetTemperature")
    driver.reasons = 0x20
    seen = one(GpuMonitor(["GPU-1"]).conditions(None))
    assert seen.temperature_c_max == 60
    assert seen.throttled is not None and seen.throttled["software thermal slowdown"] == 1.0


def test_a_driver_that_doesnt_answer_or_has_lost_a_gpu_watches_none(driver: Driver) -> None:
    driver.lacking = ("nvmlDeviceGetHandleByUUID",)
    watch = GpuMonitor(["GPU-1", "GPU-2"])
    watch.sample()
    assert watch.conditions(None) == ()
    driver.lacking = ("nvmlInit", "nvmlShutdown")
    watch = GpuMonitor(["GPU-1"])
    watch.sample()
    assert watch.conditions((0.0, 1.0)) == ()


def test_the_watch_is_over_the_first_gpus_of_the_machine_or_over_its_cores(driver: Driver) -> None:
    gpus = Machine("cuda", "NVIDIA A100-SXM4-80GB", 3, 8, True, "580", 80 * 2**30, ("GPU-1", "GPU-2", "GPU-3"))
    assert [gpu.uuid for gpu in start_monitor(gpus, 2).conditions(None) if isinstance(gpu, GpuConditions)] == [
        "GPU-1",
        "GPU-2",
    ]
    assert isinstance(start_monitor(replace(gpus, device="cpu", uuids=()), 2), CpuMonitor)


# The CPU


def test_the_kernels_table_is_read_for_the_cores_that_the_run_may_use() -> None:
    columns = {"cpu": (9, 9, 9, 9, 9, 9, 9, 9, 9, 9), "cpu0": (10, 2, 3, 999, 99, 4, 5, 6, 0, 0)}
    columns |= {"cpu1": (100, 20, 30, 999, 99, 40, 50, 60, 10, 0), "cpu10": (7, 7, 7, 7, 7, 7, 7, 7, 7, 7)}
    text = "\n".join([*(f"{name} {' '.join(map(str, ticks))}" for name, ticks in columns.items()), "intr 1 2", ""])
    assert core_seconds(text, frozenset({0})) == (24 / TICKS_PER_SECOND, 6 / TICKS_PER_SECOND)
    assert core_seconds(text, frozenset({0, 1})) == (264 / TICKS_PER_SECOND, 66 / TICKS_PER_SECOND)


BURN = "import time\nwhile time.process_time() < 1: pass"
# In a process of its own, since what other tests have left running would be this one's.
WATCH = """
import json, os, subprocess, sys, time
from mfubench.hardware.monitor_cpu import CpuMonitor
import psutil
burn, whose = sys.argv[1:]
began = time.perf_counter()
watch = CpuMonitor()
print("watching", flush=True)
if whose == "ours":  # a grandchild, that nobody but its parent waits for
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    subprocess.run([sys.executable, "-c", parent])
else:
    sys.stdin.readline()
    watch.sample()
(seen,) = watch.conditions(None)
cores_s = (time.perf_counter() - began) * seen.cores
print(json.dumps({"looks": seen.looks, "cores": seen.cores, "load": seen.load, "threads": seen.threads,
    "own_s": seen.own_share * cores_s, "foreign_s": seen.foreign_share * cores_s, "stolen": seen.stolen_share}))
"""


def watched(whose: str) -> dict[str, Any]:
    """What a watch saw while a process burned one second of processor time."""
    command = [sys.executable, "-c", WATCH, BURN, whose]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdin is not None and watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
        if whose == "theirs":
            subprocess.run([sys.executable, "-c", BURN], check=True)
        watcher.stdin.write("\n")
        return dict(json.loads(watcher.communicate()[0]))


def test_a_process_of_the_run_counts_as_its_own_and_another_as_foreign() -> None:
    ours, theirs = watched("ours"), watched("theirs")
    assert 0.95 < ours["own_s"] < 3.0  # the second, and what starting two interpreters takes
    assert theirs["own_s"] < 0.5
    assert theirs["foreign_s"] > 0.8  # the kernel counts whole ticks
    assert (ours["looks"], theirs["looks"]) == (2, 3)
    assert ours["cores"] == len(os.sched_getaffinity(0))
    assert 0 <= ours["stolen"] <= 1 and ours["load"] > 0


def test_threads_are_those_of_the_runs_processes() -> None:
    sleepers = "for _ in range(4): threading.Thread(target=time.sleep, args=(60,)).start()"
    program = f"import threading, time\n{sleepers}\nprint(flush=True)"
    watch = CpuMonitor()
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        watch.sample()
        (seen,) = watch.conditions(None)
        child.kill()
    assert seen.threads is not None and seen.threads >= 5


def test_steady_steps_with_one_look_or_none_have_no_shares() -> None:
    watch = CpuMonitor()
    watch.sample()
    later = time.perf_counter() + 100
    (seen,) = watch.conditions((later, later + 1))
    assert (seen.looks, seen.own_share, seen.foreign_share, seen.stolen_share, seen.load) == (0,) + (None,) * 4


# What of it is a trouble

QUIET_GPU = GpuConditions(
    uuid="GPU-1",
    looks=30,
    sm_clock_mhz_mean=1700,
    sm_clock_mhz_min=1600,
    power_w_mean=690,
    power_limit_w=700,
    power_limit_default_w=700,
    temperature_c_max=70,
    throttled={"software power cap": 0.9},
    energy_j=21_000,
    foreign_processes=(),
    unrecognised_processes=0,
    memory_errors_before=1,
    memory_errors=0,
    xids=(),
)
QUIET_CPU = CpuConditions(10, 2, 0.9, 0.02, 0.0, 2.0, 12, None, None)


def test_a_quiet_machine_has_no_troubles() -> None:
    """At its default power limit a GPU in full work is capped: that is how it is sold."""
    untold = replace(QUIET_GPU, throttled=None, power_limit_default_w=None, memory_errors=None, xids=None)
    for conditions in ((QUIET_GPU,), (untold,), (QUIET_CPU,), ()):
        assert list(troubles(conditions)) == []
    nothing = replace(QUIET_CPU, foreign_share=None, stolen_share=None)
    assert list(troubles((nothing,))) == []


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        (
            {"throttled": {"hardware thermal slowdown": 0.5}},
            "throttled",
            "in 50% of the looks.*hardware thermal.*70 °C",
        ),
        ({"throttled": {"hardware slowdown": 0.1}, "temperature_c_max": None}, "throttled", r"\(hardware slowdown\): "),
        ({"power_limit_w": 500}, "power_capped", "500 W, where 700 W.* ran into it in 90% .*--power-limit=700"),
        ({"power_limit_w": 500, "throttled": None}, "power_capped", "limited to 500 W"),
        ({"foreign_processes": (7, 9)}, "foreign_process", r"process 7, 9\)"),
        ({"unrecognised_processes": 1}, "foreign_process", "2 processes at once"),
        ({"memory_errors": 2}, "memory_errors", "2 uncorrected"),
        ({"xids": (45, 79, 79)}, "memory_errors", "Xid 79;"),
    ],
)
def test_what_disturbs_a_gpu_is_a_trouble(changes: dict[str, Any], kind: str, words: str) -> None:
    ((found, sentence),) = troubles((replace(QUIET_GPU, **changes),))
    assert found == kind and sentence.startswith(("the GPU", "the driver"))
    assert re.search(words, sentence)


@pytest.mark.parametrize(
    "changes",
    [
        {"throttled": {"hardware thermal slowdown": 1 / 30}},  # a spike
        {"power_limit_w": 500, "throttled": {"software power cap": 0.0}},  # never felt
        {"power_limit_w": 699.5},  # rounded
        {"xids": (45,)},  # the framework was ended
    ],
)
def test_what_changes_nothing_is_no_trouble(changes: dict[str, Any]) -> None:
    assert list(troubles((replace(QUIET_GPU, **changes),))) == []


def test_each_of_several_gpus_is_named_in_its_own_trouble() -> None:
    hot = replace(QUIET_GPU, uuid="GPU-b", throttled={"software thermal slowdown": 0.2})
    lost = replace(QUIET_GPU, uuid="GPU-c", memory_errors=1)
    (first, throttled), (second, errors) = troubles((QUIET_GPU, hot, lost))
    assert (first, second) == ("throttled", "memory_errors")
    assert throttled.startswith("GPU 1 (GPU-b) lowered") and errors.startswith("GPU 2 (GPU-c) had 1 ")


def test_others_on_the_cores_are_a_trouble() -> None:
    ((kind, sentence),) = troubles((replace(QUIET_CPU, foreign_share=0.3),))
    assert kind == "busy_machine" and "other processes took 30% of the 2 core(s)" in sentence
    ((kind, sentence),) = troubles((replace(QUIET_CPU, stolen_share=0.2),))
    assert kind == "busy_machine" and "other virtual machines took 20%" in sentence
