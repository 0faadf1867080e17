"""The machine while a run goes on. In: a look now and then. Out: Conditions: clocks, power, heat, errors, and who else was there.

Read from mfubench's own process, in the rhythm in which it looks at the records anyway: GPUs through NVIDIA's management
library, which needs no CUDA context; a CPU from the kernel's own counters. What a device doesn't tell is None.
Reading a real GPU is not yet run on CUDA.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# NVML's reasons for clocks below the highest; the others (idle, the applications' own setting, display) limit no kernel.
THROTTLES = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@dataclass(frozen=True)
class GpuConditions:
    """One GPU over a run; means and extremes are of the looks at it."""

    looks: int
    sm_clock_mhz_mean: float | None
    sm_clock_mhz_min: float | None
    power_w_mean: float | None
    power_limit_w: float | None
    power_limit_default_w: float | None
    temperature_c_max: float | None
    throttled: Mapping[str, float]  # reason -> share of the looks
    foreign_processes: tuple[int, ...]  # that use it, and are none of this run's
    energy_j: float | None
    memory_errors: int | None  # uncorrected, that came during the run


@dataclass(frozen=True)
class CpuConditions:
    """The host's processors over a run, as shares of what all of them could have done."""

    looks: int
    foreign_share: float | None  # busy with processes other than this run's
    stolen_share: float | None  # taken by other virtual machines
    load: float  # processes that wanted to run, the most of all looks
    frequency_mhz_min: float | None
    frequency_mhz_max: float | None


@dataclass
class _Gpu:
    handle: Any
    energy_j: float | None
    errors: int | None
    looks: int = 0
    readings: dict[str, list[float]] = field(default_factory=lambda: {"clock": [], "power": [], "heat": []})
    throttles: Counter[str] = field(default_factory=Counter)
    foreign: set[int] = field(default_factory=set)


class GpuWatch:
    """Looks at the GPUs of these UUIDs until `conditions` is asked for."""

    def __init__(self, uuids: Iterable[str], own: Callable[[], set[int]]) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._own = own  # the process ids of the run
        handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        self._gpus = [_Gpu(handle, self._energy(handle), self._errors(handle)) for handle in handles]

    def look(self) -> None:
        """Read every GPU once."""
        own = self._own()
        for gpu in self._gpus:
            gpu.looks += 1
            for name, told in (
                ("clock", self._told("nvmlDeviceGetClockInfo", gpu.handle, self._nvml.NVML_CLOCK_SM)),
                ("power", self._told("nvmlDeviceGetPowerUsage", gpu.handle, scale=1e-3)),
                ("heat", self._told("nvmlDeviceGetTemperature", gpu.handle, self._nvml.NVML_TEMPERATURE_GPU)),
            ):
                gpu.readings[name] += [] if told is None else [told]
            reasons = int(self._told("nvmlDeviceGetCurrentClocksThrottleReasons", gpu.handle) or 0)
            gpu.throttles.update(name for bit, name in THROTTLES.items() if reasons & bit)
            gpu.foreign |= {each.pid for each in self._processes(gpu.handle)} - own

    def conditions(self) -> tuple[GpuConditions, ...]:
        """What was seen; the watch is over."""
        found = tuple(map(self._summed_up, self._gpus))
        self._nvml.nvmlShutdown()
        return found

    def _summed_up(self, gpu: _Gpu) -> GpuConditions:
        clocks, powers, heats = gpu.readings["clock"], gpu.readings["power"], gpu.readings["heat"]
        energy, errors = self._energy(gpu.handle), self._errors(gpu.handle)
        return GpuConditions(
            looks=gpu.looks,
            sm_clock_mhz_mean=_mean(clocks),
            sm_clock_mhz_min=min(clocks, default=None),
            power_w_mean=_mean(powers),
            power_limit_w=self._told("nvmlDeviceGetEnforcedPowerLimit", gpu.handle, scale=1e-3),
            power_limit_default_w=self._told("nvmlDeviceGetPowerManagementDefaultLimit", gpu.handle, scale=1e-3),
            temperature_c_max=max(heats, default=None),
            throttled={name: seen / gpu.looks for name, seen in gpu.throttles.items()},
            foreign_processes=tuple(sorted(gpu.foreign)),
            energy_j=None if energy is None or gpu.energy_j is None else energy - gpu.energy_j,
            memory_errors=None if errors is None or gpu.errors is None else errors - gpu.errors,
        )

    def _told(self, question: str, *arguments: Any, scale: float = 1.0) -> float | None:
        try:
            return float(getattr(self._nvml, question)(*arguments)) * scale
        except self._nvml.NVMLError:
            return None

    def _energy(self, handle: Any) -> float | None:
        return self._told("nvmlDeviceGetTotalEnergyConsumption", handle, scale=1e-3)

    def _errors(self, handle: Any) -> int | None:
        kinds = (self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self._nvml.NVML_VOLATILE_ECC)
        told = self._told("nvmlDeviceGetTotalEccErrors", handle, *kinds)
        return None if told is None else int(told)

    def _processes(self, handle: Any) -> list[Any]:
        try:
            return list(self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except self._nvml.NVMLError:
            return []


class CpuWatch:
    """Looks at the host's processors until `conditions` is asked for, which is when the run's processes have ended."""

    def __init__(self) -> None:
        self._started, self._busy, self._stolen = time.monotonic(), *_host_seconds()
        self._ours = _own_seconds()
        self._loads: list[float] = []
        self._frequencies: list[float] = []

    def look(self) -> None:
        """Read the load and the frequency once."""
        import psutil

        self._loads.append(os.getloadavg()[0])
        frequency = psutil.cpu_freq()
        if frequency is not None and frequency.current:
            self._frequencies.append(frequency.current)

    def conditions(self) -> CpuConditions:
        """What was seen."""
        possible = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        busy, stolen = _host_seconds()
        ours = _own_seconds() - self._ours
        return CpuConditions(
            looks=len(self._loads),
            foreign_share=max(busy - self._busy - ours, 0.0) / possible if possible else None,
            stolen_share=(stolen - self._stolen) / possible if possible else None,
            load=max(self._loads, default=os.getloadavg()[0]),
            frequency_mhz_min=min(self._frequencies, default=None),
            frequency_mhz_max=max(self._frequencies, default=None),
        )


def _host_seconds() -> tuple[float, float]:
    """Processor seconds since the machine started: spent on any process, and taken by other machines."""
    import psutil

    spent = psutil.cpu_times()
    return spent.user + spent.nice + spent.system, getattr(spent, "steal", 0.0)


def _own_seconds() -> float:
    """Processor seconds of this process and of all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
