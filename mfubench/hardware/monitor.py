"""The monitor of a run's devices: of GPUs, or of the cores of this process."""

from __future__ import annotations

from mfubench.hardware.machine import Machine
from mfubench.hardware.monitor_cpu import CpuMonitor
from mfubench.hardware.monitor_gpu import GpuMonitor

Monitor = GpuMonitor | CpuMonitor


def start_monitor(machine: Machine, num_devices: int, ranks_descend: bool = True) -> Monitor:
    """Start a monitor of a run's devices: the first `num_devices` GPUs of the machine, or the cores of this process.

    It starts no thread: call `sample()` about once a second, then `conditions(window)` after the run.
    `ranks_descend`: the run's processes descend from this one.
    """
    return GpuMonitor(machine.uuids[:num_devices]) if machine.device == "cuda" else CpuMonitor(ranks_descend)
