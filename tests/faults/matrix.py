"""The fault matrix. In: faults of trainer.py, and how often. Out: what the real command made of each, in one sweep."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from mfubench.result.result_file import UnreadableResult, read_result

TRAINER = Path(__file__).parent / "trainer.py"
MEMORY_GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))  # version 1, version 2
LIMITS = ("memory.limit_in_bytes", "memory.max")
GROUP_BYTES = 100_000_000
MARK = "FAULTS_MARK"  # in the environment of all that an injection starts, but for what clears it
COMMON = (
    "measurement=quick",
    "measurement.steps=4",
    "measurement.timeout_s=300",
    "measurement.stall_s=5",
    "model.architecture.hidden_size=96",
    "model.architecture.intermediate_size=192",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.vocab_size=8192",
    "sequence_length=64",
    "hardware.peak_flops_per_second=1e12",
    "tracking=none",
    f"framework.command=['${{run.python}}','${{parallelism.launcher}}','{TRAINER}','${{variables.fault}}','${{run.config_path}}']",
)


@dataclass(frozen=True)
class Fault:
    """A way to go wrong, and what a result of it must say."""

    name: str  # a function of trainer.py
    status: str
    words: str  # a pattern that its reason has; empty: it has none


ALONE = (
    Fault("memory_of_the_device", "out_of_memory", "^the device's memory was full, 2 of 6 .*CUDA out of memory"),
    Fault("memory_of_the_host", "out_of_memory", "^the host's memory was full, 2 of 6 .*DefaultCPUAllocator"),
    Fault(
        "killed_by_the_kernel",
        "out_of_memory",
        "^the host's memory was full, 0 of 6 .*the kernel killed it: it held 0.[01] GiB",
    ),
    Fault("deaf_and_daemonised", "stalled", r"^no step ended for \d+ s: rank0 after 3, 3 of 6"),
    Fault("leader_dies_first", "failed", "^exit status 1, 0 of 6 .*the launcher is lost"),
    Fault("flood", "failed", "^exit status 1, 0 of 6 .*KeyError: that is all"),
    Fault("nothing", "no_records", "ended well, and no training step"),
    Fault("after_all_steps", "ok", ""),
)
OF_RANKS = (
    Fault("rank_killed", "failed", r"^exit status 1 \(rank 1 ended by SIGKILL\), [23] of 6"),
    Fault("rank_crashes", "failed", r"^exit status 1 \(rank 1 ended by SIGSEGV\), [23] of 6"),
    Fault(
        "rank_raises", "failed", r"^exit status 1 \(rank 1 failed\), [23] of 6 .*\[rank1\]: ValueError: a bad sample"
    ),
    Fault("collective_hangs", "stalled", r"^no step ended for \d+ s: rank0 after \d, rank1 after \d, [34] of 6"),
)


@dataclass(frozen=True)
class Injected:
    """What one injection came to."""

    fault: Fault
    result: dict[str, Any] | None  # None: there is none, or it is not whole
    left: Sequence[str]  # command lines of processes that worked in its folder when it had a result

    @property
    def wrong(self) -> list[str]:
        """What is not as it must be."""
        if self.result is None:
            return ["no whole result"]
        reason, outcome = self.result["reason"] or "", self.result["outcome"]
        found = [f"it left {process}" for process in self.left]
        if self.result["status"] != self.fault.status:
            found.append(f"{self.result['status']}: {reason}")
        elif not re.search(self.fault.words, reason):
            found.append(f"its reason is {reason!r}")
        if outcome["pids_left"]:
            found.append(f"it knows of processes {outcome['pids_left']} that it could not end")
        return found


@dataclass(frozen=True)
class Sweep:
    """What a sweep over faults came to."""

    injected: Sequence[Injected]
    left: Sequence[str]  # command lines of processes that live on after all of it; they are killed
    returncode: int
    errors: str


def inject(faults: Sequence[Fault], folder: Path, times: int = 1, *, ranks: int = 1) -> Sweep:
    """Each fault that many times, in one sweep of the real command in the folder."""
    mark = uuid.uuid4().hex
    several = ("parallelism=ddp", f"parallelism.num_devices={ranks}") if ranks > 1 else ()
    swept = (f"repeat=range({times})", f"+framework.variables.fault={','.join(fault.name for fault in faults)}")
    with memory_group(mark) as group:
        environment = marked(folder, mark) | {"FAULTS_MEMORY_GROUP": str(group)}
        argv = [sys.executable, "-m", "mfubench", "-m", *COMMON, *several, *swept, "hydra.sweep.dir=sweep"]
        folders = [folder / "sweep" / str(number) for number in range(times * len(faults))]
        left_of: dict[Path, list[str]] = {}
        with open(folder / "errors", "w+") as errors:
            process = subprocess.Popen(argv, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
            deadline = time.monotonic() + 600 * times
            while process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.2)
                for run in folders:
                    if run not in left_of and (run / "result.json").exists():
                        left_of[run] = command_lines(alive(run))
            errors.seek(0)
            said = errors.read()
        left = alive(folder, mark)
        lines = command_lines(left)
        for each in left:
            each.kill()
    injected = [
        Injected(faults[number % len(faults)], _whole(run / "result.json"), left_of.get(run, ()))
        for number, run in enumerate(folders)
    ]
    return Sweep(injected, lines, process.returncode, said)


def marked(folder: Path, mark: str) -> dict[str, str]:
    """The environment of an injection. It has the machine's devices for itself: nothing here is timed."""
    return {**os.environ, MARK: mark, "MFUBENCH_LOCKS": str(folder / "locks")}


def alive(folder: Path, mark: str | None = None) -> list[psutil.Process]:
    """Processes that work below the folder or carry the mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            below = Path(process.cwd()).is_relative_to(folder)
            ours = below or (mark is not None and process.environ().get(MARK) == mark)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def command_lines(found: Sequence[psutil.Process]) -> list[str]:
    """What the processes are, in words."""
    lines = []
    for process in found:
        with suppress(psutil.Error):  # it is gone
            lines.append(f"{process.pid}: {' '.join(process.cmdline())}")
    return lines


def can_limit_memory() -> bool:
    """Whether a process here may be put where the kernel will kill it for want of memory."""
    with memory_group("mfubench-probe") as group:
        return group is not None


@contextmanager
def memory_group(name: str) -> Iterator[Path | None]:
    """A cgroup of that name with little memory; None where we may not have one."""
    for root, limit in zip(MEMORY_GROUPS, LIMITS, strict=True):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(GROUP_BYTES))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def _whole(path: Path) -> dict[str, Any] | None:
    try:
        read_result(path)
    except UnreadableResult:
        return None
    return dict(json.loads(path.read_text()))
