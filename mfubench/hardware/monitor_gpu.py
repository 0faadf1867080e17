"""GPUs while a run goes on, read through NVIDIA's management library, which needs no CUDA context. In: looks. Out: GpuConditions.

What a device or its driver doesn't tell is None; nothing here raises into the run. Not yet run on CUDA.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mfubench.hardware.conditions import LEAST_LOOKS, POWER_CAP, SLOWDOWNS, GpuConditions, Window, gained, inside, mean

# NVML's bits for clocks below the highest; the others (idle, the applications' own setting, display) slow no kernel.
THROTTLES = dict(zip((0x4, 0x8, 0x40, 0x20, 0x80), (POWER_CAP, *SLOWDOWNS), strict=True))
EVENTS_PER_LOOK = 16  # at most: the rest waits for the next look


@dataclass(frozen=True)
class _Look:
    """One reading."""

    at_s: float
    clock_mhz: float | None
    power_w: float | None
    temperature_c: float | None
    reasons: int | None
    energy_j: float | None  # since the driver was loaded


@dataclass
class _Gpu:
    """One GPU, and what was seen of it so far."""

    uuid: str
    handle: Any
    events: Any | None  # that hears of its Xid errors
    errors_before: int | None
    users_before: frozenset[int]
    looks: list[_Look] = field(default_factory=list)
    strangers: set[int] = field(default_factory=set)  # that came during the run, and don't descend from this process
    one_of_ours: bool = False  # was ever listed, so that ids mean the same to the driver and to this process
    users_at_once: int = 0  # that came during the run
    xids: list[int] = field(default_factory=list)


class GpuWatch:
    """Looks at the GPUs of these UUIDs, from now until `conditions` is asked for."""

    def __init__(self, uuids: Sequence[str]) -> None:
        import pynvml

        self._nvml = pynvml
        self._silence = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)
        self._gpus = [gpu for uuid in uuids if (gpu := self._found(uuid)) is not None] if self._opened() else []
        self.look()

    def look(self) -> None:
        """Read every GPU once."""
        for gpu in self._gpus:
            gpu.looks.append(self._read(gpu.handle))
            gpu.xids += self._heard(gpu.events)
            self._who_is_there(gpu)

    def conditions(self, window: Window | None) -> tuple[GpuConditions, ...]:
        """What it was like in the window, when the steady steps were; of a run without any (None) all the time.

        To be asked for when the run's processes have ended: whoever uses a GPU now is none of them.
        """
        for gpu in self._gpus:
            gpu.looks.append(self._read(gpu.handle))
            gpu.xids += self._heard(gpu.events)
        found = tuple(self._summed_up(gpu, window) for gpu in self._gpus)
        with suppress(*self._silence):  # it never opened
            for gpu in self._gpus:
                if gpu.events is not None:
                    self._nvml.nvmlEventSetFree(gpu.events)
            self._nvml.nvmlShutdown()
        return found

    def _opened(self) -> bool:
        try:
            self._nvml.nvmlInit()
        except self._silence:
            return False
        return True

    def _found(self, uuid: str) -> _Gpu | None:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self._silence:
            return None
        events = None
        try:
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        except self._silence:
            events = None
        return _Gpu(uuid, handle, events, self._errors(handle), self._users(handle))

    def _read(self, handle: Any) -> _Look:
        nvml = self._nvml
        heat = nvml.NVML_TEMPERATURE_GPU
        # The second of a pair is the newer name: drivers have one of them, or both.
        reasons = self._told(
            handle, ("nvmlDeviceGetCurrentClocksThrottleReasons",), ("nvmlDeviceGetCurrentClocksEventReasons",)
        )
        return _Look(
            at_s=time.perf_counter(),
            clock_mhz=self._told(handle, ("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)),
            power_w=self._told(handle, ("nvmlDeviceGetPowerUsage",), scale=1e-3),
            temperature_c=self._told(handle, ("nvmlDeviceGetTemperature", heat), ("nvmlDeviceGetTemperatureV", heat)),
            reasons=None if reasons is None else int(reasons),
            energy_j=self._told(handle, ("nvmlDeviceGetTotalEnergyConsumption",), scale=1e-3),
        )

    def _who_is_there(self, gpu: _Gpu) -> None:
        """Note who uses the GPU that didn't before the run.

        A process is ours when it descends from this one, which is a subreaper while it runs something, so that orphans
        come home. In a container the driver may list ids of the machine outside, or 0, or nobody: ids are believed
        where one of ours is among them.
        """
        import psutil

        came = self._users(gpu.handle) - gpu.users_before
        ours = {pid for pid in came if _descends_from_here(pid)}
        gpu.one_of_ours |= bool(ours)
        gpu.strangers |= {pid for pid in came - ours if psutil.pid_exists(pid)}  # else it has just ended
        gpu.users_at_once = max(gpu.users_at_once, len(came))

    def _heard(self, events: Any | None) -> list[int]:
        """The Xid errors that came since this was asked last; it doesn't wait for any."""
        codes: list[int] = []
        while events is not None and len(codes) < EVENTS_PER_LOOK:
            try:
                codes.append(int(self._nvml.nvmlEventSetWait(events, 0).eventData))
            except self._silence:  # none has come: a timeout
                break
        return codes

    def _summed_up(self, gpu: _Gpu, window: Window | None) -> GpuConditions:
        times = [look.at_s for look in gpu.looks]
        seen = gpu.looks[inside(times, window)]
        told = seen if len(seen) >= LEAST_LOOKS else []
        errors = self._errors(gpu.handle)
        foreign = gpu.users_before | self._users(gpu.handle) | (gpu.strangers if gpu.one_of_ours else set())
        limit = self._told(gpu.handle, ("nvmlDeviceGetEnforcedPowerLimit",), scale=1e-3)
        default = self._told(gpu.handle, ("nvmlDeviceGetPowerManagementDefaultLimit",), scale=1e-3)
        return GpuConditions(
            uuid=gpu.uuid,
            looks=len(seen),
            sm_clock_mhz_mean=mean([look.clock_mhz for look in told]),
            sm_clock_mhz_min=min((look.clock_mhz for look in told if look.clock_mhz is not None), default=None),
            power_w_mean=mean([look.power_w for look in told]),
            power_limit_w=limit,
            power_limit_default_w=default,
            temperature_c_max=max(
                (look.temperature_c for look in told if look.temperature_c is not None), default=None
            ),
            throttled=_throttled([look.reasons for look in told if look.reasons is not None]),
            energy_j=gained(times, [look.energy_j for look in gpu.looks], window) if told else None,
            foreign_processes=tuple(sorted(foreign)),
            unrecognised_processes=0 if gpu.one_of_ours else max(gpu.users_at_once - 1, 0),
            memory_errors_before=gpu.errors_before,
            memory_errors=None if errors is None or gpu.errors_before is None else errors - gpu.errors_before,
            xids=None if gpu.events is None else tuple(gpu.xids),
        )

    def _told(self, handle: Any, *questions: tuple[Any, ...], scale: float = 1.0) -> float | None:
        """The answer to the first of the questions (a function's name, what it takes besides the GPU) that gets one."""
        for name, *rest in questions:
            try:
                return float(getattr(self._nvml, name)(handle, *rest)) * scale
            except self._silence:
                continue
        return None

    def _errors(self, handle: Any) -> int | None:
        """Uncorrected memory errors since the driver was loaded."""
        kinds = (self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self._nvml.NVML_VOLATILE_ECC)
        told = self._told(handle, ("nvmlDeviceGetTotalEccErrors", *kinds))
        return None if told is None else int(told)

    def _users(self, handle: Any) -> frozenset[int]:
        """Ids of the processes that compute on it."""
        try:
            return frozenset(process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        except self._silence:
            return frozenset()


def _throttled(reasons: Sequence[int]) -> dict[str, float] | None:
    """The share of the looks in which each reason held; None where none was told."""
    if not reasons:
        return None
    return {name: sum(1 for seen in reasons if seen & bit) / len(reasons) for bit, name in THROTTLES.items()}


def _descends_from_here(pid: int) -> bool:
    import psutil

    try:
        return os.getpid() in (parent.pid for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False
