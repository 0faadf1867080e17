"""How a framework's processes ended, and what it said last. In: the end of its log. Out: an Outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LOG_TAIL_LINES = 200  # behind a rank's last words a launcher prints its own report, some eight lines a rank
LOG_TAIL_BYTES = 64 * 1024
OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|torch\.OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    r"|DefaultCPUAllocator: can't allocate memory|HIP out of memory|MemoryError"
)
SIGKILLED = re.compile(r"Signal 9 \(SIGKILL\)|exitcode\s*:\s*-9")  # as torchrun reports a rank
# A Python exception that says something; a launcher's own about its ranks says nothing of why.
LAST_WORDS = re.compile(r"^(\[rank\d+\]:\s*)?(?!subprocess\.CalledProcessError)[A-Za-z_][\w.]*(Error|Exception): \S")


@dataclass(frozen=True)
class Outcome:
    """How the framework's processes ended."""

    ended: str  # itself | stopped (by us: enough was recorded) | timeout | interrupted (by the user) | not_installed
    returncode: int | None
    wall_s: float
    log_tail: tuple[str, ...]
    killed_for_memory: bool = False  # by the kernel, which leaves no line in the log

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel or the last lines of the log say so."""
        return self.killed_for_memory or any(OUT_OF_MEMORY.search(line) for line in self.log_tail)

    @property
    def last_words(self) -> str | None:
        """The line of the log that says why: of memory, else the last exception, else the last line of all."""
        if self.killed_for_memory:
            return "none: the kernel killed it, because the host's memory was full"
        for pattern in (OUT_OF_MEMORY, LAST_WORDS):
            if said := [line for line in self.log_tail if pattern.search(line)]:
                return said[-1]
        return self.log_tail[-1] if self.log_tail else None


def log_tail(log: Path) -> tuple[str, ...]:
    """The last lines of the framework's output."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return tuple(line.rstrip() for line in lines if line.strip())[-LOG_TAIL_LINES:]
