"""The end of a framework's processes and its cause. Every field of an Outcome is in the result. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

How = Literal["itself", "stopped", "stalled", "disk_full", "timeout", "interrupted", "not_installed"]

OUT_OF_MEMORY = {
    "device": re.compile(
        r"(CUDA|HIP) out of memory|(?<!ray\.exceptions)\.OutOfMemoryError"
        r"|(CUDA|HIP|CUDA driver|Triton) [Ee]rror[^:]*: out of memory|Cuda failure( \d+)? '?out of memory"
        r"|CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
        r"|Failed to CUDA (alloc|calloc|malloc)\b"  # NCCL
        r"|Error out of memory at line"  # bitsandbytes
    ),
    "host": re.compile(
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|\bMemoryError\b|\bstd::bad_alloc\b"
        r"|(\[Errno 12\]|OSError:|fork:) ?Cannot allocate memory|Unable to allocate .* for an array"
        r"|Failed to CUDA host (alloc|calloc|malloc)\b"
        r"|ray\.exceptions\.OutOfMemoryError|killed due to the node running low on memory"
    ),
}
# A Python exception, if need be without a message, or what `python -m` says of a module that it can't find.
EXCEPTION_LINE = re.compile(
    r"^(\[rank(?P<rank>\d+)\]:\s*)?"
    r"([A-Za-z_][\w.]*(Error|Exception)(: \S|$)|Fatal Python error: \S|\S*python\S*: (No module named|Error while finding) )"
)
# Exceptions of a launcher about its ranks, at the end of its own traceback, don't tell the cause; neither do its log and rules.
LAUNCHERS_EXCEPTION = re.compile(
    r"^(subprocess\.CalledProcessError|torch\.distributed\.elastic\.\S*ChildFailedError)\b"
)
LAUNCHERS_LINE = re.compile(r"^([EWI]\d{4} \S+ \d+ torch/distributed/|[-=*]{10,}$)")
TRACEBACK = "Traceback (most recent call last):"
# Messages of a rank that has lost another one: they don't tell the cause either.
LOST_A_PEER = re.compile(
    r"[Cc]onnection (closed|reset|refused|was likely closed)|Broken pipe|ncclRemoteError|NCCL communicator was aborted"
    r"|Rendezvous(Connection|Closed)Error|exit barrier"  # of a launcher whose first node ended before it
)
LOST_NODE = re.compile(r"[Nn]ode failure on \S+")  # what a cluster says of it, before all that follows from it
# torchrun's report on a rank, and other launchers' messages about a killed one.
REPORT = re.compile(
    r"^\s*rank\s*:\s*(?P<rank>\d+) \(local_rank: \d+\)\n\s*exitcode\s*:\s*(?P<code>-?\d+)", re.MULTILINE
)
ROOT_CAUSE = "Root Cause"
SIGKILLED = re.compile(r"exitcode\s*:\s*-9\b|return ?code\W+-9\b|is killed by signal: Killed|^Killed$", re.MULTILINE)
SHELL_SIGNAL = 128  # a shell's exit status is this and the signal that ended its program


@dataclass(frozen=True)
class Ending:
    """The kind of a run's end, and the reason if mfubench ended it."""

    how: How
    why: str | None = None


@dataclass(frozen=True)
class Memory:
    """The host's memory, sampled once a second: the worst of the samples."""

    host_available_bytes_min: int
    resident_bytes_max: int  # of all processes of the run; shared memory counts for each


@dataclass(frozen=True)
class Outcome:
    """The end of the framework's processes."""

    ended: How  # itself | stopped (enough was recorded), stalled, disk_full, timeout: by us | interrupted: by the user
    returncode: int | None
    wall_s: float
    log_tail: tuple[str, ...]
    why: str | None = None  # the reason why it was ended; None if that follows from the user's settings or the records
    out_of_memory: Literal["device", "host"] | None = None
    killed_for_memory: bool = False  # by the kernel, which leaves no line in the log
    last_words: str | None = None  # the log's line with the cause: about memory, else an exception, else the last line
    failed_rank: int | None = None  # the first to fail, if a launcher's report or the rank's own message tells
    signal: str | None = None  # the signal that ended that rank, or the leader
    memory: Memory | None = None  # None: it ended before the first sample
    peak_memory_bytes: Mapping[int, int | None] = field(default_factory=dict)  # by rank, at its last recorded step
    log_bytes_left_out: int = 0
    cleanup_s: float = 0.0  # from the end, or the decision to end it, until no process was left; part of wall_s
    pids_left: tuple[int, ...] = ()  # processes that couldn't be ended
    started_s: float | None = None  # on the host's monotonic clock; None: schema 4


def with_cause(outcome: Outcome, oom_kills: int = 0, others: Sequence[Sequence[str]] = ()) -> Outcome:
    """Add the cause, from the log and the exit status, to the outcome.

    `oom_kills`: processes of the whole machine that the kernel killed for want of memory meanwhile. `others`: last lines of
    the logs of other nodes, if each has one.
    """
    lines = [line for log in (outcome.log_tail, *others) for line in log]
    full, evidence = _full_memory(lines)
    lost = next((line for line in lines if LOST_NODE.search(line)), None)
    words = evidence or lost or _cause_of_all(outcome.log_tail, others)
    rank, by = _first_failure(list(_reported_failures(lines)), words, is_why=evidence is not None)
    if by is None and outcome.ended == "itself":
        by = _signal_of(outcome.returncode)
    by_sigkill = by == "SIGKILL" or SIGKILLED.search("\n".join(lines)) is not None
    killed = outcome.ended == "itself" and by_sigkill and oom_kills > 0
    return replace(
        outcome,
        out_of_memory="host" if killed else full,
        killed_for_memory=killed,
        last_words=words,
        failed_rank=rank,
        signal=by,
    )


def _full_memory(lines: Sequence[str]) -> tuple[Literal["device", "host"] | None, str | None]:
    """The memory that was full, device or host, and the last line about it."""
    for where in ("device", "host"):
        if said := [line for line in lines if OUT_OF_MEMORY[where].search(line)]:
            return where, said[-1]
    return None, None


def _before_launchers_report(lines: Sequence[str]) -> list[str]:
    """Return the lines before the traceback and report of a launcher whose rank failed, without its log."""
    report = next((index for index, line in enumerate(lines) if LAUNCHERS_EXCEPTION.search(line)), len(lines))
    begins = [index for index, line in enumerate(lines[:report]) if line.endswith(TRACEBACK)]
    kept = lines[: begins[-1] if begins and report < len(lines) else report]
    return [line for line in kept if line.strip() and not LAUNCHERS_LINE.search(line)]


def _cause_line(log: Sequence[str]) -> str | None:
    lines = _before_launchers_report(log) or log
    exceptions = [line for line in lines if EXCEPTION_LINE.search(line)]
    first_hand = [line for line in exceptions if not LOST_A_PEER.search(line)]
    for said in (first_hand, exceptions, lines):
        if said:
            return said[-1]
    return None


def _cause_of_all(own: Sequence[str], others: Sequence[Sequence[str]]) -> str | None:
    """Return the cause in our log, or in that of another node if ours tells of none but the loss of a rank."""
    causes = [_cause_line(log) for log in (own, *others)]
    first_hand = (line for line in causes if line and EXCEPTION_LINE.search(line) and not LOST_A_PEER.search(line))
    return next(first_hand, causes[0])


def _reported_failures(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(rank, exit status) as torchrun reports them, its presumed first failure before the others."""
    others, _, root = "\n".join(lines).partition(ROOT_CAUSE)
    for part in (root, others):
        yield from ((int(report["rank"]), int(report["code"])) for report in REPORT.finditer(part))


def _first_failure(
    failures: Sequence[tuple[int, int]], words: str | None, is_why: bool
) -> tuple[int | None, str | None]:
    """The rank that failed first, and its signal.

    Of ranks that fail within a second torchrun reports any as the first: one that died of a signal comes before those that
    lost it; SIGTERM is torchrun's own way to end the rest. `is_why`: the words are the cause beyond doubt, so the rank that
    wrote them failed first.
    """
    said = EXCEPTION_LINE.search(words or "")
    speaker = int(said["rank"]) if said and said["rank"] else None
    signalled = [(rank, name) for rank, code in failures if (name := _signal_of(code)) not in (None, "SIGTERM")]
    signalled.sort(key=lambda each: each[1] == "SIGABRT")  # its reason may be another rank's death
    # A rank may abort because it has lost another one, whose own exception then says why.
    only_aborts = all(name == "SIGABRT" for _, name in signalled) and not LOST_A_PEER.search(words or "")
    if speaker is not None and (is_why or only_aborts):
        return speaker, dict(signalled).get(speaker)
    if signalled:
        return signalled[0]
    if speaker is not None:
        return speaker, None
    return next(((rank, None) for rank, code in failures if code > 0), (None, None))


def _signal_of(returncode: int | None) -> str | None:
    """The signal's name in the exit status of a process or of a shell around it."""
    if returncode is None or 0 <= returncode <= SHELL_SIGNAL:
        return None
    try:
        return signal.Signals(-returncode if returncode < 0 else returncode - SHELL_SIGNAL).name
    except ValueError:
        return None
