"""Split the time for which a run held its devices: before its first step, warm-up, measured steps, after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceTime:
    """Wall time x devices, in s; the four parts add up to the first figure."""

    device_seconds: float
    device_seconds_before_first_step: float
    device_seconds_warmup: float
    device_seconds_measured: float
    device_seconds_after: float


def device_time(
    boundaries_s: Sequence[float], warmup_steps: int, steps: int, started_s: float, wall_s: float, devices: int
) -> DeviceTime:
    """Return the device time of a run whose measured steps follow its warm-up.

    Args:
        boundaries_s: of the measured rank, on the host's monotonic clock, as is `started_s`; n + 1 for n steps.
        warmup_steps: steps before the first measured one.
        steps: measured ones.
        started_s: when the framework was started.
        wall_s: from there until none of its processes was left.
        devices: held by the run.
    """
    first, steady, last = (boundaries_s[index] for index in (0, warmup_steps, warmup_steps + steps))
    return DeviceTime(
        device_seconds=wall_s * devices,
        device_seconds_before_first_step=(first - started_s) * devices,
        device_seconds_warmup=(steady - first) * devices,
        device_seconds_measured=(last - steady) * devices,
        device_seconds_after=(started_s + wall_s - last) * devices,
    )
