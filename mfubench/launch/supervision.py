"""A run from second to second: its output, its memory, its disk, and what whoever looks at its records says of it.

In: a wait for its end. Out: the Ending. Between two looks this sleeps.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from mfubench.launch import log, processes
from mfubench.launch.outcome import Ending, Memory
from mfubench.plan import Plan

LOOK_EVERY_S = 1.0
MIB = 2**20
FREE_TO_START_BYTES = 256 * MIB
NEARLY_FULL_BYTES = 64 * MIB  # the records and the result of the longest run fit in it

Look = Callable[[], Ending | None]


def check_room(folder: Path) -> None:
    """Raise OSError where the disk is too full to start a run on."""
    if shutil.disk_usage(folder).free < FREE_TO_START_BYTES:
        needed = f"no run is started with less than {FREE_TO_START_BYTES // MIB} MiB free on the disk"
        raise OSError(errno.ENOSPC, needed, str(folder))


@dataclass
class Watch:
    """Looks at a run once a second. `strangers`: this process's children that are none of it."""

    plan: Plan
    strangers: Collection[psutil.Process]
    memory: Memory | None = None
    left_out: int = 0  # bytes of output

    def until_the_end(self, wait: Callable[[], object], look: Look, deadline: float) -> Ending:
        """Wait until the leader ends or is to be ended. A thread blocks in wait(): with a timeout it would poll."""
        waiter = threading.Thread(target=wait, daemon=True)
        waiter.start()
        while True:
            waiter.join(LOOK_EVERY_S)
            if not waiter.is_alive():
                return Ending("itself")
            self._look_at_memory()
            self.left_out += log.keep_short(self.plan.log)
            if shutil.disk_usage(self.plan.folder).free < NEARLY_FULL_BYTES:
                return Ending("disk_full", f"less than {NEARLY_FULL_BYTES // MIB} MiB were left on the disk")
            ending = look()
            if ending is not None:
                return ending
            if time.monotonic() > deadline:
                return Ending("timeout")

    def _look_at_memory(self) -> None:
        available = psutil.virtual_memory().available
        resident = processes.resident_bytes(processes.family(self.strangers))
        before = self.memory or Memory(available, resident)
        self.memory = Memory(min(before.host_available_bytes_min, available), max(before.resident_bytes_max, resident))
