"""Decide a run's status, with the reason for it.

The records decide, not the exit status: a framework may well fail after all measured steps, or end well without training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mfubench.config import WrongCombination
from mfubench.launch.outcome import Outcome
from mfubench.measure.stopping_rule import Because, Rule, enough_after
from mfubench.plan.engines import NotInstalled
from mfubench.records.expected import Difference
from mfubench.records.reading import Records

Status = Literal[
    "ok",
    "out_of_memory",
    "timeout",
    "stalled",
    "failed",
    "interrupted",
    "unsupported",
    "not_installed",
    "no_records",
    "inconsistent",
]
LEAST_STEPS = 2  # to have a mean and a spread
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class RunStatus:
    """A run's status, why it isn't `ok`, and who ended it early."""

    status: Status
    reason: str | None = None
    stopped_by: str | None = None  # mfubench: enough was recorded | user

    @property
    def in_one_line(self) -> str:
        """The status and the reason for it."""
        return f"{self.status}: {self.reason}"


def periods_recorded(records: Records, num_ranks: int) -> int:
    """Return the number of step periods that every rank has."""
    if len(records.ranks) < num_ranks:
        return 0
    return min((len(rank.step_times_s) for rank in records.ranks), default=0)


@dataclass(frozen=True)
class Wanted:
    """The step periods that a run must have, warm-up included, and what ended the measurement there."""

    periods: int
    because: Because | Literal["user", "end"]


def wanted(outcome: Outcome, records: Records, num_ranks: int, rule: Rule, to_the_end: bool = False) -> Wanted:
    """Return the periods that were enough by the rule; those recorded if the user ended the run after the minimum; else all.

    `to_the_end`: no number of steps was asked for, so that all is what the framework made, and the minimum two steps.
    """
    recorded = periods_recorded(records, num_ranks)
    enough = enough_after([rank.step_times_s for rank in records.ranks], rule) if recorded else None
    if enough is not None:
        return Wanted(*enough)
    if outcome.ended == "interrupted" and recorded >= rule.warmup + rule.least:
        return Wanted(recorded, "user")
    if to_the_end:
        return Wanted(max(recorded, rule.warmup + LEAST_STEPS), "end")
    return Wanted(rule.warmup + rule.most, "steps")


def judge(
    outcome: Outcome,
    seen: bool,
    recorded: int,
    wanted: int,
    differences: Sequence[Difference],
    failed_early: bool = False,
) -> RunStatus:
    """Decide the status of a run.

    Args:
        outcome: how its processes ended.
        seen: True if anything was recorded.
        recorded: step periods that every rank has.
        wanted: step periods that it must have.
        differences: from what was expected; any makes a complete run inconsistent.
        failed_early: True if its steps would be enough had it not failed: nothing but its end was waited for.
    """
    by = {"stopped": "mfubench", "interrupted": "user"}.get(outcome.ended)
    if recorded >= wanted and not failed_early:
        return RunStatus("inconsistent", _as_text(differences), by) if differences else RunStatus("ok", None, by)
    so_far = f"{recorded}{f' of {wanted}' if recorded < wanted else ''} step periods recorded"
    last_words = _last_words(outcome)
    if outcome.ended == "not_installed":
        return RunStatus("not_installed", "; ".join(outcome.log_tail))
    if outcome.ended == "interrupted":
        return RunStatus("interrupted", f"ended by the user, {so_far}", by)
    if outcome.out_of_memory:
        return RunStatus("out_of_memory", f"the {outcome.out_of_memory}'s memory was full, {so_far}; {last_words}")
    if outcome.ended == "timeout":
        return RunStatus(
            "timeout", f"not done after {outcome.wall_s:.0f} s, {so_far}; measurement.timeout_s allows more"
        )
    if outcome.ended == "stalled":
        return RunStatus("stalled", f"{outcome.why}, {so_far}; measurement.stall_s allows more")
    if outcome.ended == "disk_full":
        return RunStatus("failed", f"{outcome.why}, {so_far}")
    if outcome.ended == "itself" and outcome.returncode is None:
        return RunStatus("failed", f"it couldn't be started: {outcome.last_words}")
    if outcome.returncode != 0:
        failure = f"exit status {outcome.returncode}{_failed_rank(outcome)}"
        return RunStatus("failed", f"{failure}, {so_far}; {last_words}")
    if not seen:
        return RunStatus("no_records", "it ended well, and no training step of it was seen")
    return RunStatus("inconsistent", _as_text(differences) or so_far)


def refused(error: Exception, sweep: Path | None) -> RunStatus:
    """Return the status of a run that can't be started; a wrong combination outside a sweep is raised again."""
    if isinstance(error, WrongCombination) and sweep is None:
        raise error
    return RunStatus("not_installed" if isinstance(error, NotInstalled) else "unsupported", str(error))


def _as_text(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{d.what}: asked {d.asked}, seen {d.seen}" for d in differences)


def _failed_rank(outcome: Outcome) -> str:
    """Name the rank that failed and its signal, as far as they are known."""
    rank = "" if outcome.failed_rank is None else f"rank {outcome.failed_rank} "
    if outcome.signal:
        return f" ({rank}ended by {outcome.signal})"
    return f" ({rank}failed)" if rank else ""


def _last_words(outcome: Outcome) -> str:
    if outcome.killed_for_memory:
        held = f": it held {outcome.memory.resident_bytes_max / 2**30:.1f} GiB" if outcome.memory else ""
        return f"the kernel killed it{held}"
    return f"its last words: {outcome.last_words}" if outcome.last_words else "framework.log is empty"
