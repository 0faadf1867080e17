"""The machine while a run goes on: the kernel's own counters, and a stand-in for NVIDIA's library, of which none is here."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mfubench.hardware.watch import CpuWatch, GpuWatch

BURN = "import time; end = time.time() + 2\nwhile time.time() < end: pass"


class Refused(Exception):
    """What the driver says of something that a GPU doesn't have."""


class Driver(SimpleNamespace):
    """As pynvml, of one GPU whose state a test sets: milliwatts, millijoules, bits of reasons."""

    NVMLError = Refused
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = range(4)

    def __getattr__(self, question: str) -> Any:
        def refuse(*_: Any) -> None:
            raise Refused(question)

        answers = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
            "nvmlDeviceGetClockInfo": lambda *_: self.clock,
            "nvmlDeviceGetPowerUsage": lambda _: self.power,
            "nvmlDeviceGetTemperature": lambda *_: self.heat,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: self.reasons,
            "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=pid) for pid in self.pids],
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: self.energy,
            "nvmlDeviceGetTotalEccErrors": lambda *_: self.errors,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 300_000,
        }
        return answers.get(question, refuse)


def test_a_gpu_that_is_slowed_down_shared_and_faulty_is_seen_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four looks; the clock falls in two of them, for the power cap and, in one, for heat as well."""
    driver = Driver(clock=1980, power=650_000, heat=60, reasons=0x1, pids=[7], energy=1_000_000, errors=2)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    watch = GpuWatch(["GPU-1"], own=lambda: {7, 8})
    watch.look()
    watch.look()
    driver.clock, driver.reasons, driver.pids = 1500, 0x4, [7, 8, 99]
    watch.look()
    driver.clock, driver.reasons, driver.heat, driver.pids = 1400, 0x44, 88, [7]
    driver.energy, driver.errors = 1_900_000, 3
    watch.look()
    (seen,) = watch.conditions()
    assert (seen.looks, seen.sm_clock_mhz_mean, seen.sm_clock_mhz_min) == (4, (1980 * 2 + 1500 + 1400) / 4, 1400)
    assert (seen.power_w_mean, seen.power_limit_w, seen.power_limit_default_w) == (650.0, 300.0, None)  # not told
    assert seen.throttled == {"software power cap": 0.5, "hardware thermal slowdown": 0.25}
    assert (seen.foreign_processes, seen.temperature_c_max) == ((99,), 88)
    assert (seen.energy_j, seen.memory_errors) == (900.0, 1)


def test_a_process_of_somebody_else_shows_and_one_of_ours_does_not() -> None:
    watch = CpuWatch()
    subprocess.run([sys.executable, "-c", BURN], check=True)  # ours: it is waited for
    watch.look()
    ours = watch.conditions()
    # A grandchild whose parent never waits for it is nobody's child: to this process it is somebody else's.
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}])"
    watch = CpuWatch()
    subprocess.run([sys.executable, "-c", leave], check=True)
    time.sleep(2.5)
    theirs = watch.conditions()
    assert ours.foreign_share is not None and theirs.foreign_share is not None
    assert (
        theirs.foreign_share > ours.foreign_share or ours.foreign_share > 0.5
    )  # the machine is full of others already
    assert (ours.looks, theirs.looks) == (1, 0)
    assert 0 <= (ours.stolen_share or 0.0) <= 1
