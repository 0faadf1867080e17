"""The four parts of the time that a run held its devices, worked out by hand."""

from __future__ import annotations

from mfubench.measure.device_time import DeviceTime, device_time


def test_two_devices_are_held_from_the_start_to_the_end_and_each_second_is_in_one_part() -> None:
    # Started at 100 s; first forward at 120; two steps of 4 s are warm-up, three of 2 s measured, up to 134; then one step
    # more, and the end at 137.5.
    boundaries = (120.0, 124.0, 128.0, 130.0, 132.0, 134.0, 136.0)
    found = device_time(boundaries, warmup_steps=2, steps=3, started_s=100.0, wall_s=37.5, devices=2)
    assert found == DeviceTime(75.0, 40.0, 16.0, 12.0, 7.0)
    assert 40.0 + 16.0 + 12.0 + 7.0 == 75.0
