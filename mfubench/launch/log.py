"""The framework's output, in a file. In: the file while it grows, and when it is done. Out: no more than the disk can
bear, and its last lines."""

from __future__ import annotations

from pathlib import Path

MOST_BYTES = 64 * 2**20
KEPT_BYTES = 4 * 2**20  # of the beginning and of the end each, where it became longer
LEFT_OUT = b"\n[mfubench: %d bytes of output are left out here]\n"
TAIL_LINES = 200  # behind a rank's last words a launcher prints its own report, some eight lines a rank
TAIL_BYTES = 64 * 1024


def keep_short(log: Path) -> int:
    """Leave out the middle of a file that has become too long; the bytes left out now.

    The framework goes on writing to it meanwhile: always at the end, since the file was opened for appending.
    """
    size = log.stat().st_size
    if size <= MOST_BYTES:
        return 0
    left_out = size - 2 * KEPT_BYTES
    with open(log, "r+b") as file:
        file.seek(-KEPT_BYTES, 2)
        end = file.read(KEPT_BYTES)
        file.truncate(KEPT_BYTES)
    with open(log, "ab") as file:
        file.write(LEFT_OUT % left_out + end)
    return left_out


def tail(log: Path) -> tuple[str, ...]:
    """The last lines, without empty ones."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return tuple(line.rstrip() for line in lines if line.strip())[-TAIL_LINES:]
