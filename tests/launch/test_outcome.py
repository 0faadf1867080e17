"""What the end of a log and an exit status tell of why. The texts are those that the programs print."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfubench.launch.outcome import How, Outcome, with_cause

DATA = Path(__file__).parents[1] / "data"
REPORT = """\
======================================================
train.py FAILED
------------------------------------------------------
Failures:
{others}
------------------------------------------------------
Root Cause (first observed failure):
{root}
======================================================"""
ONE = """\
[{i}]:
  time      : 2026-11-23_01:00:00
  host      : localhost
  rank      : {i} (local_rank: {i})
  exitcode  : {code} (pid: 12{i}){name}
  error_file: <N/A>
  traceback : {why}"""


def one(rank: int, code: int, name: str = "", why: str = "To enable traceback see: https://...") -> str:
    return ONE.format(i=rank, code=code, name=f" ({name})" if name else " ", why=why)


def report(root: str, *others: str) -> str:
    return REPORT.format(root=root, others="\n".join(others) or "  <NO_OTHER_FAILURES>")


def after(log: str, returncode: int | None = 1, ended: How = "itself", oom_kills: int = 0) -> Outcome:
    return with_cause(Outcome(ended, returncode, 9.0, tuple(log.splitlines())), oom_kills)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "device"),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "device"),
        ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB", "device"),
        ("torch.AcceleratorError: CUDA error: out of memory", "device"),
        ("RuntimeError: CUDA driver error: out of memory", "device"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "device"),
        ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "device"),
        ("RuntimeError: Triton Error [CUDA]: out of memory", "device"),
        ("node:7:9 [0] NCCL WARN Cuda failure 2 'out of memory'", "device"),
        ("node:7:9 [0] NCCL WARN Cuda failure 'out of memory'", "device"),
        ("node:7:9 [0] NCCL WARN Failed to CUDA calloc 4194304 bytes", "device"),
        ("node:7:9 [0] NCCL WARN Failed to CUDA malloc 4194304 bytes", "device"),
        ("node:7:9 [0] NCCL WARN Failed to CUDA host alloc 4194304 bytes", "host"),
        ("Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp", "device"),
        (
            "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
            "host",
        ),
        ("RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.", "host"),
        ("MemoryError", "host"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (9,)", "host"),
        ("OSError: [Errno 12] Cannot allocate memory", "host"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "host"),
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", "host"),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied", None),
        ("set PYTORCH_ALLOC_CONF=expandable_segments:True to avoid running out of memory", None),
    ],
)
def test_whose_memory_was_full_is_told_by_the_log(text: str, where: str | None) -> None:
    outcome = after(f"Traceback (most recent call last):\n{text}\nValueError: and then this")
    assert outcome.out_of_memory == where
    assert outcome.last_words == (text if where else "ValueError: and then this")


def test_the_kernels_kill_leaves_no_line_and_is_told_by_its_counter() -> None:
    assert after("", -9, oom_kills=1).killed_for_memory
    assert after("", 137, oom_kills=1).out_of_memory == "host"  # a shell around it
    assert after(report(one(1, -9, "SIGKILL")), oom_kills=1).out_of_memory == "host"
    assert after("DataLoader worker (pid 7) is killed by signal: Killed. ", oom_kills=2).out_of_memory == "host"
    assert after("", -9, oom_kills=0).out_of_memory is None  # somebody else
    assert after("", -15, oom_kills=1).out_of_memory is None  # somebody else's
    assert after("", -9, "timeout", oom_kills=1).out_of_memory is None  # we


@pytest.mark.parametrize(
    ("returncode", "name"),
    [(-11, "SIGSEGV"), (139, "SIGSEGV"), (-9, "SIGKILL"), (-6, "SIGABRT"), (1, None), (128, None)],
)
def test_the_signal_is_read_off_the_exit_status(returncode: int, name: str | None) -> None:
    outcome = after("", returncode)
    assert (outcome.signal, outcome.failed_rank) == (name, None)


def test_the_signal_that_we_end_it_with_is_no_evidence() -> None:
    assert after("", -15, "stopped").signal is None


def test_the_rank_and_its_signal_are_read_off_the_launchers_report() -> None:
    outcome = after(report(one(1, -11, "SIGSEGV", "Signal 11 (SIGSEGV) received by PID 121")))
    assert (outcome.failed_rank, outcome.signal) == (1, "SIGSEGV")


def test_a_rank_that_died_of_a_signal_comes_before_those_that_lost_it() -> None:
    """Both in one second: the launcher takes rank 0 for the first."""
    lost = "[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"
    outcome = after(f"{lost}\n{report(one(0, 1), one(1, -9, 'SIGKILL'))}")
    assert (outcome.failed_rank, outcome.signal) == (1, "SIGKILL")


def test_a_rank_that_aborts_comes_after_the_one_that_says_why() -> None:
    """A thread of gloo's may abort a rank that has lost another one, and the launcher takes it for the first."""
    words = "[rank1]: ValueError: a bad sample on this rank"
    outcome = after(f"{words}\n{report(one(0, -6, 'SIGABRT'), one(1, 1))}")
    assert (outcome.failed_rank, outcome.signal, outcome.last_words) == (1, None, words)
    outcome = after(f"{words}\n{report(one(0, -11, 'SIGSEGV'), one(1, 1))}")
    assert (outcome.failed_rank, outcome.signal) == (0, "SIGSEGV")


def test_the_rank_whose_memory_was_full_comes_before_all_others() -> None:
    """The others lose it: one dies of its watchdog, one speaks last."""
    words = "[rank2]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    later = "[rank1]: ValueError: and then this"
    for ranks in ((one(1, 1), one(2, 1)), (one(0, -6, "SIGABRT"), one(2, 1))):
        outcome = after(f"{words}\n{later}\n{report(*ranks)}")
        assert (outcome.out_of_memory, outcome.last_words) == ("device", words)
        assert (outcome.failed_rank, outcome.signal) == (2, None)


def test_what_the_launcher_ended_is_not_what_failed() -> None:
    words = "[rank1]: ValueError: this rank only"
    lost = "[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4242"
    outcome = after(f"{words}\n{lost}\n{report(one(0, -15, 'SIGTERM'), one(1, 1))}")
    assert (outcome.failed_rank, outcome.signal, outcome.last_words) == (1, None, words)
    assert after(f"{report(one(0, -15, 'SIGTERM'), one(1, 1))}").failed_rank == 1


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("torchrun-exception", "ValueError: a bad sample"),
        ("torchrun-missing-module", "(ModuleNotFoundError: No module named 'nosuch')"),
        ("torchrun-long-message", "RuntimeError: first line"),
        ("torchrun-assertion", "AssertionError"),
        ("torchrun-chained", "RuntimeError: could not load weights"),
        ("torchrun-exit-status", "config file is missing: x.yaml"),
        ("torchrun-exit-message", "tune: error: no recipe named x"),
        ("torchrun-arguments", "train: error: unrecognized arguments: --nope"),
        ("accelerate-exception", "ValueError: a bad sample"),
        ("accelerate-missing-module", "(ModuleNotFoundError: No module named 'nosuch')"),
        ("python-missing-module", "(ModuleNotFoundError: No module named 'nosuch')"),
    ],
)
def test_the_reason_is_what_the_rank_said_and_not_its_launcher(log: str, words: str) -> None:
    """Logs of real launchers (torch 2.13, accelerate 1.15) whose one rank failed so."""
    outcome = after((DATA / "logs" / f"{log}.txt").read_text())
    assert (outcome.last_words or "").endswith(words)


def test_where_only_lost_peers_speak_they_are_heard() -> None:
    lost = "RuntimeError: Connection reset by peer"
    assert after(lost).last_words == lost
    assert after("loading\nSegmentation fault (core dumped)").last_words == "Segmentation fault (core dumped)"
    assert after("").last_words is None
