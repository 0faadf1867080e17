"""Supervise a run once a second: its output, its memory, its disk, and the answer of a poll of its records.

Sleeps between two polls.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from mfubench.launch import processes
from mfubench.launch.outcome import Ending, Memory
from mfubench.plan.plan import Plan

POLL_EVERY_S = 1.0
MIB = 2**20
FREE_TO_START_BYTES = 256 * MIB
TRACE_BYTES = 64 * MIB  # of a step on a rank: 250,000 events
NEARLY_FULL_BYTES = 64 * MIB  # room for the records and the result of the longest run

Poll = Callable[[], Ending | None]


def check_room(folder: Path, traced_steps: int = 0) -> None:
    """Raise OSError if the disk is too full to start a run, and to keep a trace of that many steps, of all ranks together."""
    least = FREE_TO_START_BYTES + traced_steps * TRACE_BYTES
    if shutil.disk_usage(folder).free < least:
        needed = f"no run is started with less than {least // MIB} MiB free on the disk"
        needed += f", of which {traced_steps * TRACE_BYTES // MIB} are for traces" if traced_steps else ""
        raise OSError(errno.ENOSPC, needed, str(folder))


@dataclass
class Supervision:
    """Poll a run once a second. `members`: its processes on this host."""

    plan: Plan
    members: processes.Members
    memory: Memory | None = None
    left_out: int = 0  # bytes of the log

    def until_the_end(self, wait: Callable[[], object], poll: Poll, deadline: float) -> Ending:
        """Wait until the leader ends or is to be ended. A thread blocks in wait(): with a timeout it would poll."""
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        while True:
            waiter.join(POLL_EVERY_S)
            if not waiter.is_alive():
                return Ending("itself")
            self._sample_memory()
            self.left_out += keep_short(self.plan.log)
            if shutil.disk_usage(self.plan.folder).free < NEARLY_FULL_BYTES:
                return Ending("disk_full", f"less than {NEARLY_FULL_BYTES // MIB} MiB were left on the disk")
            ending = poll()
            if ending is not None:
                return ending
            if time.monotonic() > deadline:
                return Ending("timeout")

    def _sample_memory(self) -> None:
        available = psutil.virtual_memory().available
        resident = processes.resident_bytes(self.members())
        before = self.memory or Memory(available, resident)
        self.memory = Memory(min(before.host_available_bytes_min, available), max(before.resident_bytes_max, resident))


STALL_IN_SLOWEST_STEPS = 20.0
MIN_STALL_S = 120.0


@dataclass
class Stall:
    """Detects a stall: more than `allowed_s` without a new step. None: 20 times the slowest step, at least 120 s."""

    allowed_s: float | None
    _steps: int = 0
    _since_s: float = 0.0

    def poll(self, ranks: Mapping[str, Sequence[float]], now_s: float) -> str | None:
        """The last step of each rank, in words, if none has ended one for too long. `ranks`: each one's step times in s."""
        steps = sum(map(len, ranks.values()))
        if steps != self._steps:
            self._steps, self._since_s = steps, now_s
        if not steps:
            return None
        slowest = max(max(times, default=0.0) for times in ranks.values())
        allowed = max(MIN_STALL_S, STALL_IN_SLOWEST_STEPS * slowest) if self.allowed_s is None else self.allowed_s
        still = now_s - self._since_s
        if still <= allowed:
            return None
        stood = ", ".join(f"{rank} after {len(times)}" for rank, times in ranks.items())
        return f"no step ended for {still:.0f} s: {stood}"


MAX_LOG_BYTES = 64 * 2**20
KEPT_LOG_BYTES = 4 * 2**20  # of the beginning and of the end each, if the log is longer
LEFT_OUT_NOTE = b"\n[mfubench: %d bytes of output are left out here]\n"
TAIL_LINES = 200  # after a rank's last words a launcher prints its own report, some eight lines a rank
TAIL_BYTES = 64 * 1024


def keep_short(log: Path) -> int:
    """Cut out the middle of a log that has become too long. Returns the number of bytes removed.

    The framework goes on writing meanwhile: always at the end, since the file was opened for appending.
    """
    size = log.stat().st_size
    if size <= MAX_LOG_BYTES:
        return 0
    left_out = size - 2 * KEPT_LOG_BYTES
    with open(log, "r+b") as file:
        file.seek(-KEPT_LOG_BYTES, 2)
        end = file.read(KEPT_LOG_BYTES)
        file.truncate(KEPT_LOG_BYTES)
    with open(log, "ab") as file:
        file.write(LEFT_OUT_NOTE % left_out + end)
    return left_out


def tail(log: Path) -> tuple[str, ...]:
    """The last lines, without empty ones."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return tuple(line.rstrip() for line in lines if line.strip())[-TAIL_LINES:]
