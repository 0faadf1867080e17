"""mfubench itself is ended in the middle of a run. In: how. Out: who was left, for how long, and what became of the result."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from matrix import COMMON, alive, command_lines, marked

from mfubench.result.result_file import UnreadableResult, read_result

SECRET = {"FAULTS_TOKEN": "n0t-to-be-read"}
STARTS_WITHIN_S = 240
CLEANED_UP_WITHIN_S = 60
# It takes standard input for its controlling terminal, and becomes what stands behind it.
IN_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
COMMAND = (
    *(sys.executable, "-m", "mfubench", *COMMON, "measurement.steps=5000", "measurement.stall_s=300"),
    *("+framework.variables.fault=hangs_beside_a_daemon", "hydra.run.dir=run"),
)


@dataclass(frozen=True)
class Death:
    """How mfubench is ended, and the status of the run's result; None: there is no result."""

    name: str
    status: str | None


KILLED = Death("mfubench_killed", None)
TERMINAL_CLOSED = Death("terminal_closed", "interrupted")
DEATHS = (KILLED, TERMINAL_CLOSED)


@dataclass(frozen=True)
class End:
    """What was left of a run."""

    left: list[str]  # command lines of processes
    seconds: float  # until nobody was left
    status: str | None  # of the result; None: there is none. "torn" if it isn't whole
    tell_a_secret: list[str]  # files of the run


def die(death: Death, folder: Path) -> End:
    """Start the real command on a trainer that hangs beside a daemon of its own, and end mfubench that way."""
    mark = uuid.uuid4().hex
    with started(folder, mark) as (process, leave_the_terminal):
        if death is KILLED:
            process.send_signal(signal.SIGKILL)
        else:
            leave_the_terminal()
        ends = time.monotonic()
        while (left := alive(folder, mark)) and time.monotonic() - ends < CLEANED_UP_WITHIN_S:
            process.poll()  # a dead one that nobody waits for stays listed
            time.sleep(0.1)
        seconds, (secret,) = time.monotonic() - ends, SECRET.values()
        files = [path for path in (folder / "run").rglob("*") if path.is_file()]
        telling = [str(path) for path in files if secret in path.read_text(errors="replace")]
        end = End(command_lines(left), seconds, _status(folder / "run" / "result.json"), telling)
        for each in left:
            each.kill()
        return end


@contextmanager
def started(folder: Path, mark: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], None]]]:
    """The command in a terminal of its own, as soon as its trainer hangs, and what closes the terminal."""
    terminal, inside = os.openpty()
    process = subprocess.Popen(
        (sys.executable, "-c", IN_A_TERMINAL, *COMMAND),
        cwd=folder,
        env=marked(folder, mark) | SECRET,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    shown = b""
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not (folder / "run" / "hangs").exists():
            if select.select([terminal], [], [], 0.1)[0]:
                with suppress(OSError):  # its other end is closed
                    shown += os.read(terminal, 4096)
            assert process.poll() is None and time.monotonic() < deadline, shown.decode(errors="replace")
        yield process, lambda: os.close(terminal)
    finally:
        with suppress(OSError):  # it is closed
            os.close(terminal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=CLEANED_UP_WITHIN_S)
        process.kill()
        process.wait()


def _status(path: Path) -> str | None:
    try:
        return read_result(path).status
    except UnreadableResult:
        return "torn" if path.exists() else None
