"""Start the framework, supervise it, and end it: no process is left behind.

The framework runs in a session of its own with its output in a file. If mfubench itself is killed, the guard ends what is
left (guard.py).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from mfubench.files import secrets
from mfubench.files.paths import PROBE_SITE
from mfubench.launch import extensions, interrupts, processes, supervision
from mfubench.launch.outcome import Ending, How, Outcome, with_cause
from mfubench.launch.programs import guarded_tag, in_front_of
from mfubench.plan.plan import Plan, write_files

GRACE_S = 10.0
ENOUGH_GRACE_S = (
    0.5  # once enough is recorded: all that is wanted is on the disk, and every further second is device time
)
SIGNAL_WITHIN_S = 2.0  # a cluster that ends a job may tell the ranks first, and then mfubench
END_WITHIN_S = 60.0
NO_PROGRAM = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)  # missing, or not executable
# A child would attach to our W&B service, whose settings aren't the run's; and frameworks must not track the run too.
# A daemon that Kineto is told of would start a trace of its own.
# Those that a cluster sets for mfubench would be taken for a rank's own.
NOT_INHERITED = re.compile(
    r"^(WANDB_|MFUBENCH_|HYDRA_|KINETO_|PET_|(GROUP_|LOCAL_)?RANK$|(LOCAL_)?WORLD_SIZE$|NODE_RANK$)"
)


def launch(plan: Plan, poll: supervision.Poll) -> Outcome:
    """Write the plan's files, start its command, and wait for its end or end it.

    It is ended if `poll()`, called once a second, says so; at the timeout; before the disk is full; at Ctrl-C (a second one
    skips only the grace: see interrupts.interrupted_once). Raises OSError if the disk is too full to start.
    """
    supervision.check_room(plan.folder)
    plan.records.mkdir(parents=True, exist_ok=True)
    plan.scratch.mkdir(parents=True)
    write_files(plan)
    extensions.release()
    processes.adopt_orphans()
    (tag, guard), unrelated = guarded_tag(), processes.children()
    _tell(guard, plan)
    # What was started through another program needn't descend from it.
    members = partial(processes.tagged_processes, tag) if plan.per_node else partial(processes.descendants, unrelated)
    process, ending, supervised = None, Ending("interrupted"), supervision.Supervision(plan, members)
    started, began_s, kills_before = time.monotonic(), time.time(), _killed_for_memory()
    with open(plan.log, "ab") as output, interrupts.interrupted_once():  # appending: see supervision.keep_short
        try:
            try:
                process = _start_framework(plan, tag, output)
            except OSError as error:
                how: How = "not_installed" if error.errno in NO_PROGRAM else "itself"
                return with_cause(Outcome(how, None, 0.0, (str(error),)))
            ended = supervised.until_the_end(process.wait, poll, started + plan.timeout_s)
            if plan.per_node and ended.how == "itself" and process.returncode:
                time.sleep(SIGNAL_WITHIN_S)
            ending = ended
        except KeyboardInterrupt:
            pass
        finally:
            ends = time.monotonic()
            grace_s = ENOUGH_GRACE_S if ending.how == "stopped" else GRACE_S
            if process is not None and plan.working_folder is not None and ending.how == "interrupted":
                _interrupt(process)
            left = _end_all(process, members, unrelated, grace_s)
            _end_on_other_nodes(plan)
            cleanup_s = time.monotonic() - ends
            extensions.release(began_s)
    left_out = supervised.left_out + supervision.keep_short(plan.log)
    outcome = Outcome(
        ended=ending.how,
        returncode=process.returncode if process else None,
        wall_s=time.monotonic() - started,
        started_s=started,
        log_tail=supervision.tail(plan.log),
        why=ending.why,
        memory=supervised.memory,
        log_bytes_left_out=left_out,
        cleanup_s=cleanup_s,
        pids_left=left,
    )
    others = [supervision.tail(log) for log in sorted(plan.folder.glob(f"nodes/*/{plan.log.name}"))]
    return with_cause(outcome, _killed_for_memory() - kills_before, others)


def clear(plan: Plan) -> None:
    """Delete what the framework wrote for nobody, and remove secrets from what others will read."""
    shutil.rmtree(plan.scratch, ignore_errors=True)
    secrets.clean_output(plan.log, plan.records)


def _tell(guard: subprocess.Popen[bytes], plan: Plan) -> None:
    """Tell the guard what to do if mfubench is killed in this run: which files to clean of secrets, how to end other nodes."""
    assert guard.stdin is not None
    with suppress(BrokenPipeError):  # the guard has been killed
        told = (plan.log, plan.records, plan.end or "")
        os.write(guard.stdin.fileno(), b"".join(os.fsencode(part) + b"\0" for part in told))


def _start_framework(plan: Plan, tag: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        (*plan.per_node, *plan.command),
        env=_child_environment(plan, tag),
        cwd=plan.working_folder or plan.folder,
        stdin=None if plan.working_folder else subprocess.DEVNULL,
        stdout=None if plan.working_folder else output,
        stderr=None if plan.working_folder else subprocess.STDOUT,
        start_new_session=True,
    )


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Hand Ctrl-C on to a user's own command, as its terminal would, and let it end in its own way."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(GRACE_S)


def _end_all(
    process: subprocess.Popen[bytes] | None,
    members: processes.Members,
    unrelated: Collection[psutil.Process],
    grace_s: float,
) -> tuple[int, ...]:
    """End every process of this run; another Ctrl-C skips the rest of the grace. Returns the pids that nothing can end."""
    so_far = interrupts.only_counted()
    left = processes.end(
        None if process is None else process.pid,
        members,
        grace_s,
        hurried=lambda: interrupts.came_since(so_far),
    )
    if process is not None and process.pid not in left:
        process.wait()
    processes.reap(unrelated)
    return left


def _end_on_other_nodes(plan: Plan) -> None:
    if plan.end is not None:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(("sh", "-c", plan.end), stdin=subprocess.DEVNULL, capture_output=True, timeout=END_WITHIN_S)


def _killed_for_memory() -> int:
    """Number of processes that the kernel has killed for want of memory since it started; 0 if it doesn't tell."""
    try:
        counted = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:  # not readable here
        return 0
    return int(counted[1]) if counted else 0


def _child_environment(plan: Plan, tag: str) -> dict[str, str]:
    own = plan.working_folder is not None  # then all is left as the user has it
    inherited = {key: value for key, value in os.environ.items() if own or not NOT_INHERITED.match(key)}

    def in_front(first: str, variable: str) -> str:
        return in_front_of(first, plan.environment.get(variable), inherited.get(variable))

    ours = {
        "PYTHONPATH": in_front(str(PROBE_SITE), "PYTHONPATH"),
        "MFUBENCH_RECORDS": str(plan.records),
        processes.RUN_TAG: tag,
    }
    if own:
        return {**inherited, **plan.environment, **ours}
    ours["WANDB_MODE"] = "disabled"
    # Programs that the framework starts by name, torchrun or ninja, must be those of its own environment.
    ours["PATH"] = in_front(os.path.dirname(plan.command[0]), "PATH")
    return {**inherited, **extensions.build_environment(plan.command[0]), **plan.environment, **ours}
