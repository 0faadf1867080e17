"""Monitor GPUs during a run, through NVIDIA's management library (NVML), which needs no CUDA context.

Anything that a device or its driver doesn't report is None; no error of NVML reaches the run. Run on one H200, and not yet
on several GPUs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from mfubench.hardware.conditions import (
    MIN_SAMPLES,
    POWER_CAP,
    SLOWDOWNS,
    GpuConditions,
    Window,
    counter_increase,
    mean_of_known,
    window_slice,
)

# NVML's bits for the reasons of lowered clocks; the others (idle, application clocks, display) slow no kernel.
THROTTLES = dict(zip((0x4, 0x8, 0x40, 0x20, 0x80), (POWER_CAP, *SLOWDOWNS), strict=True))
MAX_EVENTS_PER_SAMPLE = 16  # later ones are read at the next sample


@dataclass(frozen=True)
class _GpuSample:
    """Reading of a GPU."""

    at_s: float
    clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    reasons: int | None  # NVML's bits, see THROTTLES
    energy_j: float | None  # since the driver was loaded


@dataclass
class _Gpu:
    """Monitored GPU, and its samples so far."""

    uuid: str
    handle: Any  # NVML's
    events: Any | None  # NVML's event set, which collects its Xid errors
    errors_before: int | None
    users_before: frozenset[int]
    samples: list[_GpuSample] = field(default_factory=list)
    unrelated: set[int] = field(default_factory=set)  # users since the run began that don't descend from this process
    lists_ours: bool = False  # a descendant was listed once, so the driver's process ids are those of this container
    max_new_users: int = 0  # users at once that weren't there before the run
    xids: list[int] = field(default_factory=list)


class GpuMonitor:
    """Monitor of the GPUs with these UUIDs, from its making until `conditions` is called."""

    def __init__(self, uuids: Sequence[str]) -> None:
        import pynvml

        self._nvml = pynvml
        self._nvml_errors = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)
        self._gpus: list[_Gpu] = []
        with suppress(*self._nvml_errors):  # no driver answers
            pynvml.nvmlInit()
            for uuid in uuids:
                with suppress(*self._nvml_errors):  # it has lost this GPU
                    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                    users = self._users(handle)
                    self._gpus.append(_Gpu(uuid, handle, self._xid_events(handle), self._errors(handle), users))
        self.sample()

    def sample(self) -> None:
        """Read every GPU once."""
        for gpu in self._gpus:
            self._read(gpu)
            self._note_users(gpu)

    def conditions(self, window: Window | None) -> tuple[GpuConditions, ...]:
        """Summarize the samples in the window of the steady steps, or all samples if it is None.

        Call it once, after the run's processes have ended: any process on a GPU now counts as foreign.
        """
        for gpu in self._gpus:
            self._read(gpu)
        found = tuple(self._summary(gpu, window) for gpu in self._gpus)
        with suppress(*self._nvml_errors):  # it never opened
            for gpu in self._gpus:
                if gpu.events is not None:
                    self._nvml.nvmlEventSetFree(gpu.events)
            self._nvml.nvmlShutdown()
        return found

    def _xid_events(self, handle: Any) -> Any | None:
        """Make the event set that collects the GPU's Xid errors; None if it reports none."""
        with suppress(*self._nvml_errors):
            events = self._nvml.nvmlEventSetCreate()
            self._nvml.nvmlDeviceRegisterEvents(handle, self._nvml.nvmlEventTypeXidCriticalError, events)
            return events
        return None

    def _read(self, gpu: _Gpu) -> None:
        """Add a sample of the GPU, and its Xid errors since the last one."""
        handle, heat = gpu.handle, self._nvml.NVML_TEMPERATURE_GPU
        # The second of a pair is the newer name: drivers have one of them, or both.
        reasons = self._query(
            handle, ("nvmlDeviceGetCurrentClocksThrottleReasons",), ("nvmlDeviceGetCurrentClocksEventReasons",)
        )
        sample = _GpuSample(
            at_s=time.perf_counter(),
            clock_mhz=self._query(handle, ("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM)),
            power_w=self._query(handle, ("nvmlDeviceGetPowerUsage",), scale=1e-3),
            temperature_c=self._query(handle, ("nvmlDeviceGetTemperature", heat), ("nvmlDeviceGetTemperatureV", heat)),
            reasons=None if reasons is None else int(reasons),
            energy_j=self._query(handle, ("nvmlDeviceGetTotalEnergyConsumption",), scale=1e-3),
        )
        gpu.samples.append(sample)
        if gpu.events is not None:
            with suppress(*self._nvml_errors):  # a timeout: there are no more
                for _ in range(MAX_EVENTS_PER_SAMPLE):
                    gpu.xids.append(int(self._nvml.nvmlEventSetWait(gpu.events, 0).eventData))

    def _note_users(self, gpu: _Gpu) -> None:
        """Note the processes that use the GPU and didn't before the run.

        A process is ours if it descends from this one, which is a subreaper while it runs something, so that orphans become
        its children. In a container the driver may list the host's ids, zeros, or nothing: its ids are trusted only if one
        of ours is among them.
        """
        new = self._users(gpu.handle) - gpu.users_before
        ours = {pid for pid in new if _descends_from_here(pid)}
        gpu.lists_ours |= bool(ours)
        gpu.unrelated |= {pid for pid in new - ours if psutil.pid_exists(pid)}  # else it has just ended
        gpu.max_new_users = max(gpu.max_new_users, len(new))

    def _summary(self, gpu: _Gpu, window: Window | None) -> GpuConditions:
        times = [sample.at_s for sample in gpu.samples]
        in_window = gpu.samples[window_slice(times, window)]
        usable = in_window if len(in_window) >= MIN_SAMPLES else []
        errors = self._errors(gpu.handle)
        foreign = gpu.users_before | self._users(gpu.handle) | (gpu.unrelated if gpu.lists_ours else set())
        limit = self._query(gpu.handle, ("nvmlDeviceGetEnforcedPowerLimit",), scale=1e-3)
        default = self._query(gpu.handle, ("nvmlDeviceGetPowerManagementDefaultLimit",), scale=1e-3)
        return GpuConditions(
            uuid=gpu.uuid,
            looks=len(in_window),
            sm_clock_mhz_mean=mean_of_known([sample.clock_mhz for sample in usable]),
            sm_clock_mhz_min=min((sample.clock_mhz for sample in usable if sample.clock_mhz is not None), default=None),
            power_w_mean=mean_of_known([sample.power_w for sample in usable]),
            power_limit_w=limit,
            power_limit_default_w=default,
            temperature_c_max=max(
                (sample.temperature_c for sample in usable if sample.temperature_c is not None), default=None
            ),
            throttled=_throttled_shares([sample.reasons for sample in usable if sample.reasons is not None]),
            energy_j=counter_increase(times, [sample.energy_j for sample in gpu.samples], window) if usable else None,
            foreign_processes=tuple(sorted(foreign)),
            unrecognised_processes=0 if gpu.lists_ours else max(gpu.max_new_users - 1, 0),
            memory_errors_before=gpu.errors_before,
            memory_errors=None if errors is None or gpu.errors_before is None else errors - gpu.errors_before,
            xids=None if gpu.events is None else tuple(gpu.xids),
        )

    def _query(self, handle: Any, *queries: tuple[Any, ...], scale: float = 1.0) -> float | None:
        """Ask NVML one query after the other until one is answered, and return the answer times `scale`; None without one.

        `queries`: names of functions of NVML, each with its arguments besides the GPU.
        """
        for name, *rest in queries:
            with suppress(*self._nvml_errors):
                return float(getattr(self._nvml, name)(handle, *rest)) * scale
        return None

    def _errors(self, handle: Any) -> int | None:
        """Count the uncorrected memory errors since the driver was loaded."""
        kinds = (self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self._nvml.NVML_VOLATILE_ECC)
        errors = self._query(handle, ("nvmlDeviceGetTotalEccErrors", *kinds))
        return None if errors is None else int(errors)

    def _users(self, handle: Any) -> frozenset[int]:
        """List the ids of the processes that compute on the GPU."""
        try:
            return frozenset(process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except self._nvml_errors:
            return frozenset()


def _throttled_shares(reasons: Sequence[int]) -> dict[str, float] | None:
    """Share of the samples in which each reason held; None if there is none."""
    if not reasons:
        return None
    return {name: sum(bool(bits & bit) for bits in reasons) / len(reasons) for bit, name in THROTTLES.items()}


def _descends_from_here(pid: int) -> bool:
    try:
        return os.getpid() in (parent.pid for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False
