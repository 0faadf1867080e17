"""Which status a run gets: the records decide, the exit status is noted."""

from __future__ import annotations

import pytest

from mfubench.outcome import Outcome
from mfubench.records import Difference
from mfubench.verdict import STATUSES, judge, periods_wanted

PLANNED = 35
DIFFERENCE = (Difference(what="world size", asked="2", seen="1"),)


def ended(how: str, returncode: int | None = 0, *log: str) -> Outcome:
    return Outcome(how, returncode, 12.0, log)


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


def test_ctrl_c_after_the_least_number_of_steps_is_ok() -> None:
    interrupted = ended("interrupted", -15)
    wanted = periods_wanted(interrupted, recorded=20, planned=PLANNED, least=15)
    assert wanted == 20
    given = judge(interrupted, True, 20, wanted, ())
    assert (given.status, given.stopped_by) == ("ok", "user")
    assert periods_wanted(interrupted, recorded=14, planned=PLANNED, least=15) == PLANNED


def test_a_failure_gives_its_last_words() -> None:
    reason = judge(ended("itself", 1, "Traceback", "KeyError: 'x'"), False, 0, PLANNED, ()).reason
    assert reason == "exit status 1, 0 of 35 step periods recorded; its last words: KeyError: 'x'"
