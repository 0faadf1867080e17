"""Plan → Outcome: starts the framework, watches it once a second, leaves no process behind. The only subprocesses.

The framework runs in a session of its own with its output in a file. It is ended by SIGTERM, a grace period, then SIGKILL
to every descendant: launchers put their ranks into sessions of their own, so a signal to the group would miss them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from mfubench import extensions
from mfubench.outcome import SIGKILLED, Outcome, log_tail
from mfubench.paths import PROBE_SITE
from mfubench.plan import Plan

GRACE_S = 10.0
ANSWER_WITHIN_S = 60.0  # a command line that imports torch takes some ten seconds
LOOK_EVERY_S = 1.0
RUN_TAG = "MFUBENCH_RUN"  # in the environment of every process of a run, so that a stray one is recognised
PR_SET_CHILD_SUBREAPER = 36
ENDING = 0  # among the signals: the run is being ended
_signals: list[int] = []  # that came since the outermost `interrupted_once` began
# A child would attach to our W&B service, and its settings are not the run's; a framework must not track beside us.
NOT_INHERITED = re.compile(r"^(WANDB_|MFUBENCH_|HYDRA_)")


def launch(plan: Plan, enough: Callable[[], bool]) -> Outcome:
    """Write the plan's files, start its command and wait for its end, or end it: when `enough()`, asked once a second,
    says so; at the timeout; at Ctrl-C (a second Ctrl-C skips the grace, and only that: see `interrupted_once`)."""
    plan.records.mkdir(parents=True, exist_ok=True)
    plan.scratch.mkdir(parents=True)
    write_files(plan)
    started, began_s = time.monotonic(), time.time()
    extensions.release()
    tag, killed_before = uuid.uuid4().hex, _killed_for_memory()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of the run come home to be ended
    with open(plan.log, "wb") as log, interrupted_once():
        try:
            process = subprocess.Popen(
                plan.command,
                env=_environment(plan, tag),
                cwd=plan.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:  # not there, or no program
            return Outcome("not_installed", None, 0.0, (str(error),))
        try:
            ended = _watch(process, enough, started + plan.timeout_s)
        except KeyboardInterrupt:
            ended = "interrupted"
        finally:
            _signals.append(ENDING)
            _end(process, tag)
            extensions.release(began_s)
    tail = log_tail(plan.log)
    by_sigkill = process.returncode == -signal.SIGKILL or any(SIGKILLED.search(line) for line in tail)
    killed = ended == "itself" and by_sigkill and _killed_for_memory() > killed_before
    return Outcome(ended, process.returncode, time.monotonic() - started, tail, killed)


def write_files(plan: Plan) -> None:
    """The native config and what it refers to, in the run folder."""
    for name, text in {plan.config_path.name: plan.config_text, **plan.other_files}.items():
        (plan.folder / name).write_text(text)


@functools.cache
def answers(command: tuple[str, ...]) -> bool:
    """Whether a program runs and ends with 0 within a minute; asked once in this process."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=ANSWER_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # not there, or no program
        return False
    return done.returncode == 0


def run_together(commands: Sequence[Sequence[str]], environment: Mapping[str, str], timeout_s: float) -> list[str]:
    """Run short helper programs at the same time and return what each printed; RuntimeError if one fails or is too slow."""
    children = [
        subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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
    """The commit of a checkout, with -dirty where it has changes; None where there is no checkout or no git."""
    if not (root / ".git").exists():  # git would describe whatever repository lies around an installed package
        return None
    try:
        return run_together([["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]], {}, 10)[
            0
        ].strip()
    except (OSError, RuntimeError):
        return None


def _killed_for_memory() -> int:
    """How many processes the kernel has killed for want of memory since it started."""
    counted = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    return int(counted[1]) if counted else 0


def _environment(plan: Plan, tag: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not NOT_INHERITED.match(key)}

    def in_front(first: str, variable: str) -> str:
        return os.pathsep.join(filter(None, (first, plan.environment.get(variable), inherited.get(variable))))

    ours = {
        # Programs that the framework starts by name, torchrun or ninja, must be those of its own environment.
        "PATH": in_front(os.path.dirname(plan.command[0]), "PATH"),
        "PYTHONPATH": in_front(str(PROBE_SITE), "PYTHONPATH"),
        "MFUBENCH_RECORDS": str(plan.records),
        RUN_TAG: tag,
        "WANDB_MODE": "disabled",
    }
    return {**inherited, **extensions.environment(plan.command[0]), **plan.environment, **ours}


def _watch(process: subprocess.Popen[bytes], enough: Callable[[], bool], deadline: float) -> str:
    """Wait until the process ends or is to be ended. A thread blocks in wait(): Popen.wait(timeout) would poll."""
    waiter = threading.Thread(target=process.wait, daemon=True)
    waiter.start()
    while True:
        waiter.join(LOOK_EVERY_S)
        if not waiter.is_alive():
            return "itself"
        if enough():
            return "stopped"
        if time.monotonic() > deadline:
            return "timeout"


def _end(process: subprocess.Popen[bytes], tag: str) -> None:
    """No process of this run is left when this returns; a Ctrl-C meanwhile skips what is left of the grace."""
    so_far, deadline = len(_signals), time.monotonic() + GRACE_S
    alive = _family(process.pid, tag)
    if process.poll() is None:
        process.terminate()
    while alive and len(_signals) == so_far and time.monotonic() < deadline:
        _, alive = psutil.wait_procs(alive, timeout=0.2)
    for attempt in range(3):  # a dying launcher may still have started a rank
        for survivor in {*alive, *_family(process.pid, tag)}:
            with suppress(psutil.Error):  # it is gone already
                survivor.kill()
        _, alive = psutil.wait_procs(alive, timeout=GRACE_S if attempt else 1.0)
        if not alive and not _family(process.pid, tag):
            break
    process.wait()


def _family(pid: int, tag: str) -> list[psutil.Process]:
    """The process, its descendants, and whatever else carries the run's tag (orphans in sessions of their own)."""
    found: set[psutil.Process] = set()
    with suppress(psutil.Error):  # it is gone already
        leader = psutil.Process(pid)
        found |= {leader, *leader.children(recursive=True)}
    for other in psutil.process_iter():
        with suppress(psutil.Error):  # it is gone already
            if other.environ().get(RUN_TAG) == tag:
                found.add(other)
    return [p for p in found if p.is_running() and not _is_zombie(p)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def _interrupt(signum: int, frame: object) -> None:
    _signals.append(signum)
    if len(_signals) == 1:
        raise KeyboardInterrupt


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the run, once: from then on, and while the run is being ended, they are only counted,
    so that what it recorded is still written. One that nobody has acted on by the end is raised then."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _interrupt:
        yield  # signals come to the main thread only; or this is inside another one
        return
    _signals.clear()
    heard = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, _interrupt) for s in heard}  # what nohup has silenced stays so
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if _signals[:1] == [ENDING] and len(_signals) > 1:
        raise KeyboardInterrupt
