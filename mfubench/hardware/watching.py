"""The machine in; the watch out that looks at it while a run goes on: `look()` now and then, then `conditions(window)`.

Both run in mfubench's own process, in the rhythm in which it looks at the records anyway, once a second.
"""

from __future__ import annotations

from mfubench.hardware.machine import Machine
from mfubench.hardware.monitor_cpu import CpuWatch
from mfubench.hardware.monitor_gpu import GpuWatch

Monitor = GpuWatch | CpuWatch


def watch(machine: Machine, num_devices: int) -> Monitor:
    """A watch over the devices of a run, from now on: the first `num_devices` GPUs that it sees, or this process's cores."""
    return GpuWatch(machine.uuids[:num_devices]) if machine.device == "cuda" else CpuWatch()
