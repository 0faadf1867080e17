"""The processes of a run, found as descendants of this process or by the run's tag: their memory and their end.

While mfubench lives, every process that a run starts is below it: the kernel hands it the orphans, even those that changed
their session or environment. Once mfubench is gone, only the tag in their environment identifies them.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

RUN_TAG = "MFUBENCH_RUN"  # in the environment of every process of a run
PR_SET_CHILD_SUBREAPER = 36
KILLED_WITHIN_S = 15.0  # longer than a driver or a file server takes to release a process
KILL_POLL_EVERY_S = 0.1

Members = Callable[[], Collection[psutil.Process]]


def adopt_orphans() -> None:
    """From now on, make every orphaned descendant a child of this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> frozenset[psutil.Process]:
    """This process's own children."""
    return frozenset(psutil.Process().children())


def descendants(unrelated: Collection[psutil.Process]) -> list[psutil.Process]:
    """Living descendants of this process without the `unrelated` ones: its earlier children, with theirs."""
    return _alive(_with_descendants(children().difference(unrelated)))


def tagged_processes(tag: str) -> list[psutil.Process]:
    """Living processes with the tag in their environment, and their descendants; never this process."""
    processes = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it is gone, or another user's
            if process.environ().get(RUN_TAG) == tag:
                processes.add(process)
    return _alive(_with_descendants(processes) - {psutil.Process()})


def have_open(path: Path) -> bool:
    """True if any process has the file open, as far as our permissions show."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it is gone, or another user's
            if any(file.path == str(path) for file in process.open_files()):
                return True
    return False


def resident_bytes(members: Iterable[psutil.Process]) -> int:
    """Resident memory of the processes; shared memory counts for each."""
    total = 0
    for process in members:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def end(leader: int | None, members: Members, grace_s: float, hurried: Callable[[], bool]) -> tuple[int, ...]:
    """SIGTERM to the leader, or to all if it is gone; SIGKILL to the rest after `grace_s`, or once `hurried()`.

    Launchers put their ranks into sessions of their own, so a signal to the leader's group would miss them, and a leader
    ends its ranks best itself. Returns the pids that couldn't be ended, because they are stuck in the kernel.
    """
    waiting, deadline = list(members()), time.monotonic() + grace_s
    for process in [each for each in waiting if each.pid == leader] or waiting:
        with suppress(psutil.Error):  # it is gone already
            process.terminate()
    while waiting and not hurried() and time.monotonic() < deadline:
        time.sleep(KILL_POLL_EVERY_S)
        waiting = _alive(waiting)
    return kill(members)


def kill(members: Members) -> tuple[int, ...]:
    """SIGKILL to all members until two polls in a row find none: a dying one may have started another meanwhile.

    Returns the pids that couldn't be ended.
    """
    deadline, empty_polls = time.monotonic() + KILLED_WITHIN_S, 0
    while True:
        processes = members()
        empty_polls = 0 if processes else empty_polls + 1
        if empty_polls == 2 or time.monotonic() > deadline:
            return tuple(sorted(process.pid for process in processes))
        for process in processes:
            with suppress(psutil.Error):  # it is gone already
                process.kill()
        time.sleep(KILL_POLL_EVERY_S if processes else 0)


def reap(unrelated: Collection[psutil.Process]) -> None:
    """Wait for dead adopted children, so that they leave the process table and their CPU time is counted."""
    for child in children().difference(unrelated):
        with suppress(ChildProcessError):  # somebody else has waited for it
            os.waitpid(child.pid, os.WNOHANG)


def _with_descendants(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    every = set(processes)
    for process in tuple(every):
        with suppress(psutil.Error):  # it is gone already
            every.update(process.children(recursive=True))
    return every


def _alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with suppress(psutil.Error):  # it is gone
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive
