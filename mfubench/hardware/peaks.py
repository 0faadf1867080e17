"""Peak and ceiling of one device, in dense FLOP/s.

MFU and HFU divide by the peak: the user's own figure, else the data sheet's for the option named or the device found; a
CPU's is measured. It is never guessed: an unknown peak is an error. The ceiling is the largest matmul rate measured on this
very device.
"""

from __future__ import annotations

from dataclasses import dataclass

from mfubench.config import Hardware
from mfubench.config.vocabulary import RESOLVED_PRECISIONS
from mfubench.files.paths import cache_folder
from mfubench.hardware.catalogue import known_peaks, nearest_options
from mfubench.hardware.machine import Machine, Unavailable
from mfubench.hardware.matmul_rates import RunTogether, cpu_rate, gpu_rate


class UnknownPeak(ValueError):
    """The peak of this device in this dtype is not known. The message says how to give it."""


@dataclass(frozen=True)
class Peak:
    """Peak of one device, without sparsity."""

    flops_per_second: float
    dtype: str  # bf16 | fp16 | tf32 | fp32 | fp8
    source: str  # a data sheet, a setting, or how it was measured
    measured: bool
    relative_half_width: float = 0.0  # of its 95 % interval, if it was measured
    clock_hz: float | None = None  # of the multiprocessors, at which a data sheet's peak holds; None: not known


@dataclass(frozen=True)
class Ceiling:
    """Largest matmul rate measured on one device (MAMF, the maximum achievable matmul FLOPS)."""

    flops_per_second: float
    source: str  # how it was measured


@dataclass(frozen=True)
class Peaks:
    """Peak and ceiling by which a run's FLOP/s are divided."""

    peak: Peak | None  # None: not known
    ceiling: Ceiling | None  # None: hardware.measure_ceiling is false, or it is a dry run


def peak_dtype(precision: str, machine: Machine) -> str:
    """Return the dtype whose peak holds for a run of this resolved precision; fp32 on CUDA runs with TF32, if it has that.

    A watched command's precision may be another one, which is its own dtype.
    """
    if precision not in RESOLVED_PRECISIONS:
        return precision
    if precision != "fp32":
        return "bf16"
    return "tf32" if machine.has_tf32 else "fp32"


def peak(
    hardware: Hardware,
    machine: Machine,
    dtype: str,
    num_ranks: int,
    threads_per_rank: int,
    run_together: RunTogether,
) -> Peak:
    """Find the peak of one device of `machine` in `dtype`.

    On a CPU a device is a rank of `threads_per_rank` threads, and the peak is measured now, with all `num_ranks` ranks at
    once, started by `run_together`. Raises UnknownPeak if the device or its figure in `dtype` is unknown, or if a CPU's
    couldn't be measured.
    """
    if hardware.peak_flops_per_second is not None:
        return Peak(hardware.peak_flops_per_second, dtype, "hardware.peak_flops_per_second", measured=False)
    if machine.device == "cpu":
        try:
            rate, how, half_width = cpu_rate(dtype, num_ranks, threads_per_rank, run_together)
        except RuntimeError as error:
            raise UnknownPeak(
                f"this CPU's peak in {dtype} could not be measured: {_last_line(error)}; try again on a quieter machine, or "
                "give it, in FLOP/s: hardware.peak_flops_per_second=1e12"
            ) from error
        return Peak(rate, dtype, how, measured=True, relative_half_width=half_width)
    option = hardware if hardware.device_name is not None else known_peaks(machine.device_name)
    if option is None or dtype not in option.peaks:
        raise UnknownPeak(_unknown(machine.device_name, dtype, option))
    source = option.source or f"hardware={option.name}"
    return Peak(option.peaks[dtype], dtype, source, measured=False, clock_hz=_clock_hz(option))


def ceiling(machine: Machine, dtype: str, num_ranks: int, threads_per_rank: int, run_together: RunTogether) -> Ceiling:
    """Measure the largest matmul rate of one device of `machine` in `dtype`; a GPU's is kept in the cache folder.

    For a peak that comes from a data sheet or a setting; one that was measured is itself the ceiling. Raises Unavailable
    if it can't be measured.
    """
    try:
        if machine.device == "cpu":
            rate, how, _ = cpu_rate(dtype, num_ranks, threads_per_rank, run_together)
            return Ceiling(rate, how)
        return Ceiling(*gpu_rate(machine, dtype, num_ranks, run_together, cache_folder() / "ceilings"))
    except (RuntimeError, ValueError, LookupError) as error:  # the program failed, or what it left can't be read
        raise Unavailable(
            f"the largest matmul rate of {machine.device_name} in {dtype} could not be measured: {_last_line(error)}; "
            "hardware.measure_ceiling=false goes without it"
        ) from error


def _clock_hz(option: Hardware) -> float | None:
    """Return the clock at which the option's peaks hold: its bf16 peak / (multiprocessors x FLOP per clock of one)."""
    if option.multiprocessors is None or option.flops_per_clock is None:
        return None
    return option.peaks["bf16"] / (option.multiprocessors * option.flops_per_clock)


def _last_line(error: Exception) -> str:
    """Last line of a program's error: the others are the traceback."""
    return str(error).strip().splitlines()[-1]


def _unknown(device_name: str, dtype: str, option: Hardware | None) -> str:
    way_out = f"give its dense figure in {dtype}, from the vendor, in FLOP/s: hardware.peak_flops_per_second=312e12"
    if option is not None:
        way_out = f"hardware={option.name} has {', '.join(option.peaks)}; {way_out}"
    elif near := nearest_options(device_name):
        way_out = f"if it is one of these, name it: {', '.join(f'hardware={n}' for n in near)}; else {way_out}"
    return f"the peak of {device_name!r} in {dtype} is not known, and none is guessed; {way_out} (312e12 is an example)"
