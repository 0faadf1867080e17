"""Conditions of the machine during a run (clocks, power, heat, other processes), and those that disturbed it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Trouble = Literal["throttled", "power_capped", "foreign_process", "memory_errors", "busy_machine"]

POWER_CAP = "software power cap"
# Reasons for lower clocks besides the power limit: heat, and the board's own protection.
SLOWDOWNS = (
    "hardware slowdown",
    "hardware thermal slowdown",
    "software thermal slowdown",
    "hardware power brake",
)
MAX_THROTTLED_SHARE = 0.05  # share of the samples above which a slowdown is a trouble: one in thirty may be a spike
MAX_POWER_CAPPED_SHARE = 0.05  # share of the samples above which a power limit that was lowered is a trouble
LOWERED_LIMIT_RATIO = 0.99  # of a power limit to the default: boards report limits to the watt
MAX_FOREIGN_SHARE = 0.05  # share of the cores' time: one rank that waits for a core holds up all ranks
# Xid errors that come of a program's fault or of its being killed, and not of a faulty device: those that NVIDIA's device
# plugin for Kubernetes ignores. A run whose framework was ended shows 45.
XIDS_OF_PROGRAMS = frozenset({13, 31, 43, 45, 68, 109})


@dataclass(frozen=True)
class GpuConditions:
    """Conditions of one GPU during a run.

    Clocks, power, temperature and energy are over the steady steps, or over the whole run if it has none; they are None with
    fewer than two samples. Errors and other processes are over the whole run. Anything that the device doesn't report is None.
    """

    uuid: str
    looks: int  # samples in the steady steps; means, extremes and shares are of these
    sm_clock_mhz_mean: float | None
    sm_clock_mhz_min: float | None
    power_w_mean: float | None
    power_limit_w: float | None  # in force
    power_limit_default_w: float | None  # the board's own
    temperature_c_max: float | None
    throttled: Mapping[str, float] | None  # reason -> share of the samples
    energy_j: float | None  # of the steady steps
    foreign_processes: tuple[int, ...]  # ids of processes that used it and aren't of this run
    unrecognised_processes: int  # users beyond one, if ids can't be compared (in some containers)
    memory_errors_before: int | None  # uncorrected, from the driver's start to the run's
    memory_errors: int | None  # uncorrected, during the run
    xids: tuple[int, ...] | None  # the driver's error codes during the run, in order


@dataclass(frozen=True)
class CpuConditions:
    """Conditions of the cores this process may use, over the steady steps, or over the whole run if it has none.

    Shares are of the time of all these cores together; with fewer than two samples they are None.
    """

    looks: int  # samples in the steady steps
    cores: int
    own_share: float | None  # busy with the run's processes
    foreign_share: float | None  # busy with others
    stolen_share: float | None  # taken by other virtual machines
    load: float | None  # one-minute load average of the whole machine: the highest of the samples
    threads: int | None  # of the run's processes, idle ones too: the most in a sample
    frequency_mhz_mean: float | None
    frequency_mhz_min: float | None


Conditions = Sequence[GpuConditions | CpuConditions]


def troubles(conditions: Conditions) -> Iterator[tuple[Trouble, str]]:
    """Yield each disturbance of the run as its kind and a sentence about the device.

    A GPU at its default power limit is not one: data-centre GPUs reach it in every dense training, although their data
    sheets' peak doesn't allow for it. A limit that was set lower is one if the GPU reached it, and a slowdown by heat or by
    the board always is.
    """
    gpus = [each for each in conditions if isinstance(each, GpuConditions)]
    for number, gpu in enumerate(gpus):
        name = "the GPU" if len(gpus) == 1 else f"GPU {number} ({gpu.uuid})"
        yield from _clock_troubles(name, gpu)
        yield from _process_troubles(name, gpu)
        yield from _error_troubles(name, gpu)
    for each in conditions:
        if isinstance(each, CpuConditions):
            yield from _busy_troubles(each)


def _clock_troubles(name: str, gpu: GpuConditions) -> Iterator[tuple[Trouble, str]]:
    """Slowdowns of the clocks, and a lowered power limit."""
    shares = gpu.throttled or {}
    reason = max(SLOWDOWNS, key=lambda each: shares.get(each, 0.0))
    if shares.get(reason, 0.0) > MAX_THROTTLED_SHARE:
        heat = "" if gpu.temperature_c_max is None else f", at up to {gpu.temperature_c_max:.0f} °C"
        yield (
            "throttled",
            f"{name} lowered its clocks in {shares[reason]:.0%} of the looks ({reason}){heat}: "
            "the figures are of a slowed device; check its cooling and its power supply",
        )
    limit, default = gpu.power_limit_w, gpu.power_limit_default_w
    lowered = limit is not None and default is not None and limit < LOWERED_LIMIT_RATIO * default
    if lowered and (gpu.throttled is None or shares.get(POWER_CAP, 0.0) > MAX_POWER_CAPPED_SHARE):
        felt = "" if gpu.throttled is None else f", and ran into it in {shares[POWER_CAP]:.0%} of the looks"
        yield (
            "power_capped",
            f"{name} is limited to {limit:.0f} W, where {default:.0f} W are its default{felt}: its peak is for the default; "
            f"nvidia-smi --power-limit={default:.0f} restores it",
        )


def _process_troubles(name: str, gpu: GpuConditions) -> Iterator[tuple[Trouble, str]]:
    """Other processes on the GPU."""
    if gpu.foreign_processes:
        ids = ", ".join(map(str, gpu.foreign_processes))
        yield "foreign_process", f"{name} was also used by others (process {ids}); run again when it is free"
    if gpu.unrecognised_processes:
        more = gpu.unrecognised_processes + 1
        yield (
            "foreign_process",
            f"{name} was used by {more} processes at once, and this run has one on it; the driver's process ids are not those of "
            "this container, so the others can't be named; run again when it is free",
        )


def _error_troubles(name: str, gpu: GpuConditions) -> Iterator[tuple[Trouble, str]]:
    """Memory errors, and errors that the driver reported."""
    if gpu.memory_errors:
        yield (
            "memory_errors",
            f"{name} had {gpu.memory_errors} uncorrected memory error(s) during the run; its results may be wrong",
        )
    serious = [xid for xid in gpu.xids or () if xid not in XIDS_OF_PROGRAMS]
    if serious:
        codes = ", ".join(map(str, dict.fromkeys(serious)))
        yield "memory_errors", f"the driver reported error(s) of {name} during the run: Xid {codes}; see dmesg"


def _busy_troubles(cpu: CpuConditions) -> Iterator[tuple[Trouble, str]]:
    """Other processes and virtual machines on the cores."""
    if cpu.foreign_share is not None and cpu.foreign_share > MAX_FOREIGN_SHARE:
        yield (
            "busy_machine",
            f"other processes took {cpu.foreign_share:.0%} of the {cpu.cores} core(s) meanwhile: "
            "step times are longer and more spread than on a quiet machine",
        )
    if cpu.stolen_share is not None and cpu.stolen_share > MAX_FOREIGN_SHARE:
        yield (
            "busy_machine",
            f"other virtual machines took {cpu.stolen_share:.0%} of the {cpu.cores} core(s) meanwhile: "
            "step times are longer and more spread than on a machine without them",
        )


MIN_SAMPLES = 2  # in a window, for any figure about it
Window = tuple[float, float]  # begin and end, in seconds of the monotonic clock (time.perf_counter, on Linux)


def window_slice(times: Sequence[float], window: Window | None) -> slice:
    """Slice of the readings in the window, both ends included; of all readings if the window is None."""
    if window is None:
        return slice(0, len(times))
    begin, end = window
    return slice(bisect_left(times, begin), bisect_right(times, end))


def counter_increase(times: Sequence[float], counter: Sequence[float | None], window: Window | None) -> float | None:
    """Increase of a counter in the window, linearly interpolated between its readings.

    Args:
        times: when the counter was read, ascending, on the clock of the window.
        counter: the readings, None if one failed.
        window: None means from the first reading to the last.

    Returns:
        The increase in the counter's unit; None if it wasn't read on both sides of the window, or went backwards.
    """
    read = [(at, value) for at, value in zip(times, counter, strict=True) if value is not None]
    if len(read) < 2:
        return None
    begin, end = window or (read[0][0], read[-1][0])
    if begin < read[0][0] or end > read[-1][0]:
        return None
    grown = _counter_at(read, end) - _counter_at(read, begin)
    return grown if grown >= 0 else None


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Mean of the readings that aren't None; None if there is none."""
    read = [value for value in values if value is not None]
    return sum(read) / len(read) if read else None


def _counter_at(read: Sequence[tuple[float, float]], when: float) -> float:
    """Interpolate the counter linearly at a time between two (time, value) readings."""
    after = min(max(bisect_right(read, when, key=lambda pair: pair[0]), 1), len(read) - 1)
    (t0, v0), (t1, v1) = read[after - 1], read[after]
    return v0 + (v1 - v0) * (when - t0) / (t1 - t0)
