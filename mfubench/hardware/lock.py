"""Exclusive locks on devices: one mfubench at a time, until the block ends or the process dies.

A lock is a file in /tmp/mfubench-locks, or in $MFUBENCH_LOCKS: one for each GPU by its UUID, one for the host's CPU. The
kernel releases it with the process, however that ends, and no program that the run starts inherits it. A container with a
/tmp of its own doesn't see it. Run on one H200, and not yet on several GPUs.

filelock would not do: in a folder with the sticky bit, FileLock (4.3) refuses a file that another user has made.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from rich.console import Console

from mfubench.hardware.machine import Machine

# Not below $TMPDIR: users and jobs have their own, and the devices are the machine's.
LOCK_FOLDER = Path("/tmp/mfubench-locks")


@contextmanager
def exclusive(machine: Machine, num_devices: int, folder: Path, console: Console) -> Iterator[None]:
    """Lock the first `num_devices` of the machine for a run in `folder`, waiting for whoever holds them.

    If a device can't be locked, say so on `console` and go on without.
    """
    with ExitStack() as locks:
        # In one order for all, so that no two wait for each other.
        for device in sorted(machine.uuids[:num_devices]) or ["cpu"]:
            locks.enter_context(_device_lock(device, folder, console))
        yield


@contextmanager
def _device_lock(device: str, folder: Path, console: Console) -> Iterator[None]:
    place = Path(os.environ.get("MFUBENCH_LOCKS") or LOCK_FOLDER)
    try:
        descriptor = _open_lock_file(place, f"{device}.lock")
    except OSError as error:
        why = f"{device} can't be locked ({error}), so another mfubench may run beside this one"
        console.print(why, style="yellow", markup=False, highlight=False)
        yield
        return
    with os.fdopen(descriptor, "r+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder_in_words(file.read())
            waiting = f"waiting for {device}: {holder} has it (Ctrl-C ends the waiting)"
            console.print(waiting, style="yellow", markup=False, highlight=False, soft_wrap=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        note = {"pid": os.getpid(), "folder": str(folder), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        with suppress(OSError):  # the disk is full: the lock holds without a note
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(note).encode(), 0)
        yield


def _open_lock_file(place: Path, name: str) -> int:
    """Open the lock's file, which every user may write whoever made it; make it if it is missing.

    Opening it with O_CREAT at once would fail: Linux refuses that for another user's file in a folder that all may write
    (fs.protected_regular).
    """
    before = os.umask(0)
    try:
        place.mkdir(mode=0o1777, parents=True, exist_ok=True)
        while True:  # another process may make it meanwhile
            for flags, passed_over in ((0, FileNotFoundError), (os.O_CREAT | os.O_EXCL, FileExistsError)):
                with suppress(passed_over):
                    return os.open(place / name, os.O_RDWR | os.O_NOFOLLOW | flags, 0o666)
    finally:
        os.umask(before)


def _holder_in_words(text: str) -> str:
    """Describe the holder of a lock by its own note, which may be missing, half written, or anybody's."""
    try:
        note = json.loads(text)
        words = f"process {note['pid']}, since {note['since']}, for {note['folder']},"
    except (ValueError, TypeError, KeyError):
        return "another mfubench"
    return "".join(character if character.isprintable() else " " for character in words)
