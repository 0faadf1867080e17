"""The machine, the peak and the ceiling that a run's FLOP/s are divided by, and monitors of the machine during a run."""

from __future__ import annotations

from mfubench.hardware.catalogue import known_peaks
from mfubench.hardware.conditions import Conditions, CpuConditions, GpuConditions, Window, troubles
from mfubench.hardware.machine import Machine, Unavailable, detect, planned, resolve_precision
from mfubench.hardware.monitor_cpu import CpuMonitor
from mfubench.hardware.monitor_gpu import GpuMonitor
from mfubench.hardware.peaks import Ceiling, Peak, Peaks, UnknownPeak, ceiling, peak, peak_dtype

__all__ = [
    "Ceiling",
    "Conditions",
    "CpuConditions",
    "GpuConditions",
    "Machine",
    "Monitor",
    "Peak",
    "Peaks",
    "Unavailable",
    "UnknownPeak",
    "Window",
    "ceiling",
    "detect",
    "known_peaks",
    "monitor",
    "peak",
    "peak_dtype",
    "planned",
    "resolve_precision",
    "troubles",
]

Monitor = GpuMonitor | CpuMonitor


def monitor(machine: Machine, num_devices: int, ranks_descend: bool = True) -> Monitor:
    """Start a monitor of a run's devices: the first `num_devices` GPUs of the machine, or the cores of this process.

    It starts no thread: call `sample()` about once a second, then `conditions(window)` after the run.
    `ranks_descend`: the run's processes descend from this one.
    """
    return GpuMonitor(machine.uuids[:num_devices]) if machine.device == "cuda" else CpuMonitor(ranks_descend)
