"""Exclusive locks on devices: one mfubench at a time, until the block ends or the process dies.

A lock is a file in /tmp/mfubench-locks, or in $MFUBENCH_LOCKS: one for each GPU by its UUID, one for the host's CPU. The
kernel lets go of it with the process, however that ends, and no program that the run starts inherits it. Another container
with a /tmp of its own is not seen. Taking a GPU's lock is not yet run on CUDA.
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

from mfubench.hardware import Machine

LOCK_FOLDER = Path(
    "/tmp/mfubench-locks"
)  # not below $TMPDIR: users and jobs have their own, and the devices are the machine's


@contextmanager
def exclusive(machine: Machine, num_devices: int, folder: Path, console: Console) -> Iterator[None]:
    """Lock the first `num_devices` of the machine for a run in `folder`; wait for whoever holds them."""
    with ExitStack() as locks:
        for device in sorted(machine.uuids[:num_devices]) or [
            "cpu"
        ]:  # in one order for all, so that none waits in a circle
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
    """The lock's file, which every user may write whoever made it.

    It is made only where it is missing: Linux refuses O_CREAT on another user's file in a folder that all may write
    (fs.protected_regular).
    """
    before = os.umask(0)
    try:
        place.mkdir(mode=0o1777, parents=True, exist_ok=True)
        while True:
            try:
                return os.open(place / name, os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                try:
                    return os.open(place / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL, 0o666)
                except FileExistsError:
                    continue  # another one made it meanwhile
    finally:
        os.umask(before)


def _holder_in_words(text: str) -> str:
    """Whoever holds a lock, as it says itself; it may be about to, and it may be anybody."""
    try:
        said = json.loads(text)
        words = f"process {said['pid']}, since {said['since']}, for {said['folder']},"
    except (ValueError, TypeError, KeyError):
        return "another mfubench"
    return "".join(each if each.isprintable() else " " for each in words)
