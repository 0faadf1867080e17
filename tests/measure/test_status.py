"""Which status a run gets: the records decide, the exit status is noted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mfubench.launch.outcome import How, Memory, Outcome, with_cause
from mfubench.measure.status import STATUSES, Wanted, judge, wanted
from mfubench.measure.stopping_rule import Rule
from mfubench.records.expected import Difference
from mfubench.records.reading import RankRecord, Records

PLANNED = 35
DIFFERENCE = (Difference(what="world size", asked="2", seen="1"),)


def ended(how: How, returncode: int | None = 0, *log: str) -> Outcome:
    return with_cause(Outcome(how, returncode, 12.0, log))


@pytest.mark.parametrize(
    ("outcome", "recorded", "status", "stopped_by"),
    [
        (ended("itself"), 35, "ok", None),
        (ended("stopped", -15), 35, "ok", "mfubench"),
        (ended("itself", 1, "no model card"), 35, "ok", None),  # it failed after all steps: noted, not judged
        (ended("timeout", -15), 35, "ok", None),
        (ended("itself"), 0, "no_records", None),
        (ended("itself"), 20, "inconsistent", None),
        (ended("itself", 1, "KeyError: 'x'"), 0, "failed", None),
        (ended("itself", -11), 20, "failed", None),
        (ended("itself", 1, "torch.OutOfMemoryError: CUDA out of memory."), 3, "out_of_memory", None),
        (ended("timeout", -9), 3, "timeout", None),
        (ended("stalled", -9), 3, "stalled", None),
        (
            ended("stalled", -9, "CUDA out of memory."),
            3,
            "out_of_memory",
            None,
        ),  # of one rank, which the others wait for
        (ended("disk_full", -15), 3, "failed", None),
        (ended("disk_full", -15), 35, "ok", None),
        (ended("interrupted", -15), 3, "interrupted", "user"),
        (ended("not_installed", None, "no such file"), 0, "not_installed", None),
    ],
)
def test_the_status_of_a_run(outcome: Outcome, recorded: int, status: str, stopped_by: str | None) -> None:
    given = judge(outcome, recorded > 0, recorded, PLANNED, ())
    assert (given.status, given.stopped_by) == (status, stopped_by)
    assert given.status in STATUSES
    assert (given.reason is None) == (status == "ok")


def test_all_steps_recorded_and_something_else_done_is_inconsistent() -> None:
    given = judge(ended("stopped", -15), True, 35, PLANNED, DIFFERENCE)
    assert (given.status, given.reason) == ("inconsistent", "world size: asked 2, seen 1")


def test_ctrl_c_stands_in_the_verdict_whatever_else_is_wrong() -> None:
    """A sweep ends at it."""
    given = judge(ended("interrupted", -15), True, 35, PLANNED, DIFFERENCE)
    assert (given.status, given.stopped_by) == ("inconsistent", "user")


RULE = Rule(warmup=5, least=10, most=30, precision=None)


def recorded(*periods: int, step_s: float = 1.0) -> Records:
    """A rank for each number of periods."""
    return Records(
        tuple(
            RankRecord(rank, 1, tuple(i * step_s for i in range(n + 1)), (), None, (), None, None, {}, {}, ())
            for rank, n in enumerate(periods)
        )
    )


def test_ctrl_c_after_the_least_number_of_steps_is_ok() -> None:
    interrupted = ended("interrupted", -15)
    enough = wanted(interrupted, recorded(20), 1, RULE)
    assert enough == Wanted(20, "user")
    given = judge(interrupted, True, 20, enough.periods, ())
    assert (given.status, given.stopped_by) == ("ok", "user")
    assert wanted(interrupted, recorded(14), 1, RULE) == Wanted(PLANNED, "steps")


def test_a_run_needs_what_its_rule_calls_enough_on_every_rank() -> None:
    stopped = ended("stopped", -15)
    assert wanted(stopped, recorded(40, 36), 2, RULE) == Wanted(35, "steps")
    assert wanted(stopped, recorded(40), 2, RULE) == Wanted(35, "steps")  # a rank is missing: never enough
    assert wanted(stopped, recorded(40), 1, replace(RULE, seconds=12.0)) == Wanted(17, "time")
    assert wanted(stopped, recorded(40), 1, replace(RULE, seconds=3.0)) == Wanted(15, "time")  # not before the least
    sure = replace(
        RULE, most=200, precision=0.01
    )  # it looks at 10, 15, 22, 34, 51, 76, 114, and stops at no fewer than 100
    assert wanted(stopped, recorded(150), 1, sure) == Wanted(119, "sure")


def test_a_failure_gives_its_last_words() -> None:
    reason = judge(ended("itself", 1, "Traceback", "KeyError: 'x'"), False, 0, PLANNED, ()).reason
    assert reason == "exit status 1, 0 of 35 step periods recorded; its last words: KeyError: 'x'"


def test_a_failure_names_the_rank_and_its_signal() -> None:
    killed = replace(ended("itself", 1), failed_rank=1, signal="SIGKILL")
    reason = judge(killed, True, 3, PLANNED, ()).reason
    assert reason == "exit status 1 (rank 1 ended by SIGKILL), 3 of 35 step periods recorded; framework.log is empty"
    reason = judge(ended("itself", 1, "[rank1]: KeyError: 'x'"), True, 3, PLANNED, ()).reason
    assert reason is not None and reason.startswith("exit status 1 (rank 1 failed), 3 of 35")
    reason = judge(ended("itself", -11), True, 3, PLANNED, ()).reason
    assert reason is not None and reason.startswith("exit status -11 (ended by SIGSEGV), 3 of 35")


def test_full_memory_says_whose_and_what_was_held() -> None:
    killed = replace(with_cause(Outcome("itself", -9, 12.0, ()), oom_kills=1), memory=Memory(2**20, 3 * 2**30))
    reason = judge(killed, True, 3, PLANNED, ()).reason
    assert reason == "the host's memory was full, 3 of 35 step periods recorded; the kernel killed it: it held 3.0 GiB"


def test_a_stall_says_where_it_stood() -> None:
    still = replace(ended("stalled", -9), why="no step ended for 121 s: rank0 after 4, rank1 after 3")
    reason = judge(still, True, 3, PLANNED, ()).reason
    assert reason is not None and reason.startswith("no step ended for 121 s: rank0 after 4, rank1 after 3, 3 of 35")
    assert "measurement.stall_s" in reason
