"""Run short helper programs, and the guard over every process that this one starts."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from mfubench.files.paths import PACKAGE
from mfubench.launch import processes

RESPOND_WITHIN_S = 60.0  # a command line that imports torch takes some ten seconds


@functools.cache
def responds(command: tuple[str, ...]) -> bool:
    """True if the program exits with 0 within a minute; run once in this process."""
    try:
        run_together([command], {}, RESPOND_WITHIN_S)
    except (OSError, RuntimeError):  # missing or not executable, failed or too slow
        return False
    return True


def run_together(commands: Sequence[Sequence[str]], environment: Mapping[str, str], timeout_s: float) -> list[str]:
    """Run short helper programs at the same time and return each one's output; RuntimeError if one fails or is too slow."""
    children = [
        subprocess.Popen(
            command,
            env={**os.environ, **environment, processes.RUN_TAG: guarded_tag()[0]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for command in commands
    ]
    deadline = time.monotonic() + timeout_s
    outputs = []
    try:
        for child in children:
            output, errors = child.communicate(timeout=max(0.0, deadline - time.monotonic()))
            if child.returncode != 0:
                raise RuntimeError(f"{child.args!r} ended with {child.returncode}: {errors.strip()[-2000:]}")
            outputs.append(output)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{error.cmd!r} was not done after {timeout_s:g} s") from error
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    return outputs


def commit_of(root: Path) -> str | None:
    """Return the commit of a checkout, with -dirty if it has changes; None without a checkout or without git."""
    if not (root / ".git").exists():  # else git would describe any repository around an installed package
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return run_together([describe], {}, 10)[0].strip()
    except (OSError, RuntimeError):
        return None


@functools.cache
def guarded_tag() -> tuple[str, subprocess.Popen[bytes]]:
    """Return a tag and the guard of all processes that carry it: one for this process, until it ends or is killed."""
    tag = uuid.uuid4().hex
    guard = subprocess.Popen(
        (sys.executable, "-m", "mfubench.launch.guard", tag, f"{time.time():.0f}"),
        env={**os.environ, "PYTHONPATH": in_front_of(str(PACKAGE.parent), os.environ.get("PYTHONPATH"))},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(_dismiss, guard)
    return tag, guard


def in_front_of(*places: str | None) -> str:
    """Join the non-empty places into a search path."""
    return os.pathsep.join(filter(None, places))


def _dismiss(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait()
