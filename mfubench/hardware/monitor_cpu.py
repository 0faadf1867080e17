"""Monitor the host's processors during a run, by the kernel's own counters."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mfubench.hardware.conditions import (
    MIN_SAMPLES,
    CpuConditions,
    Window,
    counter_increase,
    mean_of_known,
    window_slice,
)

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STAT = Path("/proc/stat")


@dataclass(frozen=True)
class _CpuSample:
    """Reading of the cores; seconds are of processor time, summed over cores, and only their differences mean anything."""

    at_s: float
    busy_s: float | None  # with any process
    stolen_s: float | None  # by other virtual machines
    own_s: float  # of the run's processes
    threads: int  # of the run's processes
    load: float  # one-minute load average
    frequency_mhz: float | None


class CpuMonitor:
    """Monitor of the cores this process may use, from its making until `conditions` is called."""

    def __init__(self, ranks_descend: bool = True) -> None:
        self._ranks_descend = ranks_descend  # else a run's share can't be told from others'
        self._cores = frozenset(os.sched_getaffinity(0))
        self._samples: list[_CpuSample] = []
        self.sample()

    def sample(self) -> None:
        """Read all counters once. Takes some milliseconds, since it reads the parent of every process of the machine."""
        busy, stolen = core_seconds(STAT.read_text(), self._cores)
        own, threads = own_seconds_and_threads()
        load, frequency = os.getloadavg()[0], _frequency_mhz(self._cores)
        self._samples.append(_CpuSample(time.perf_counter(), busy, stolen, own, threads, load, frequency))

    def conditions(self, window: Window | None) -> tuple[CpuConditions]:
        """Summarize the samples in the window of the steady steps, or all samples if it is None."""
        self.sample()
        times = [sample.at_s for sample in self._samples]
        in_window = self._samples[window_slice(times, window)]
        begin, end = window or (times[0], times[-1])
        possible = (end - begin) * len(self._cores)

        def share(counter: Sequence[float | None]) -> float | None:
            grown = counter_increase(times, counter, window) if len(in_window) >= MIN_SAMPLES else None
            return None if grown is None else min(grown / possible, 1.0)  # whole ticks may add up to a little more

        busy = share([sample.busy_s for sample in self._samples])
        own = share([sample.own_s for sample in self._samples]) if self._ranks_descend else None
        return (
            CpuConditions(
                looks=len(in_window),
                cores=len(self._cores),
                own_share=own,
                # The two are counted separately, in whole ticks: their difference may be negative.
                foreign_share=None if busy is None or own is None else max(busy - own, 0.0),
                stolen_share=share([sample.stolen_s for sample in self._samples]),
                load=max((sample.load for sample in in_window), default=None),
                threads=max((sample.threads for sample in in_window), default=None),
                frequency_mhz_mean=mean_of_known([sample.frequency_mhz for sample in in_window]),
                frequency_mhz_min=min(
                    (sample.frequency_mhz for sample in in_window if sample.frequency_mhz), default=None
                ),
            ),
        )


def core_seconds(stat: str, cores: frozenset[int]) -> tuple[float | None, float | None]:
    """Read how long these cores were busy, and how long other virtual machines used them, since the machine started.

    Args:
        stat: text of /proc/stat, whose columns are user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
        cores: numbers of the cores.

    Returns:
        Busy and stolen seconds, summed over the cores; (None, None) if a core isn't in the table, or if the table holds only
        zeros, as in some containers.
    """
    busy = stolen = found = 0
    names = {f"cpu{core}" for core in cores}
    for line in stat.splitlines():
        name, *columns = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, columns[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
            found += 1
    if found < len(names) or not busy:
        return None, None
    return busy / TICKS_PER_SECOND, stolen / TICKS_PER_SECOND


def own_seconds_and_threads() -> tuple[float, int]:
    """Read the processor seconds of this process and its descendants, and the number of its descendants' threads.

    The seconds include those of descendants that ended and were waited for, and of those that ended and still wait for that.
    Only a process that ended with nobody to wait for it would be missed; this process is a subreaper while it runs something,
    so orphans become its children.
    """
    here = psutil.Process()
    seconds, threads = 0.0, 0
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.Error), process.oneshot():  # it may be gone by now
            used = process.cpu_times()
            seconds += used.user + used.system + used.children_user + used.children_system
            threads += process.num_threads() if process != here else 0
    return seconds, threads


def _frequency_mhz(cores: frozenset[int]) -> float | None:
    """Mean frequency of these cores; None if the kernel doesn't report it, as in some virtual machines."""
    try:
        each = psutil.cpu_freq(percpu=True)
    except (NotImplementedError, OSError):
        return None
    return mean_of_known([frequency.current or None for core, frequency in enumerate(each) if core in cores])
