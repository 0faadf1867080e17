"""Outcome + Records + differences → the run's status and the reason for it. Pure.

The records decide, not the exit status: a framework may well fail after all measured steps, or end well without training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mfubench.outcome import Outcome
from mfubench.records import Difference, Records

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
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Verdict:
    """A run's status, why it isn't `ok`, and who ended it early."""

    status: Status
    reason: str | None = None
    stopped_by: str | None = None  # mfubench: enough was recorded | user


def periods_recorded(records: Records, num_ranks: int) -> int:
    """Step periods that every rank has."""
    if len(records.ranks) < num_ranks:
        return 0
    return min((len(rank.step_times_s) for rank in records.ranks), default=0)


def periods_wanted(outcome: Outcome, recorded: int, planned: int, least: int) -> int:
    """Step periods that the run must have: those planned, or those recorded when the user ended it after the `least`."""
    return recorded if outcome.ended == "interrupted" and least <= recorded < planned else planned


def judge(outcome: Outcome, seen: bool, recorded: int, wanted: int, differences: Sequence[Difference]) -> Verdict:
    """The verdict on a run that recorded that many step periods of those wanted; `seen`: whether it recorded anything."""
    if recorded >= wanted:
        if differences:
            return Verdict("inconsistent", _in_words(differences))
        return Verdict("ok", None, {"stopped": "mfubench", "interrupted": "user"}.get(outcome.ended))
    so_far = f"{recorded} of {wanted} step periods recorded"
    if outcome.ended == "not_installed":
        return Verdict("not_installed", "; ".join(outcome.log_tail))
    if outcome.ended == "interrupted":
        return Verdict("interrupted", f"ended by the user, {so_far}", "user")
    if outcome.out_of_memory:
        return Verdict("out_of_memory", f"{so_far}; {_last_words(outcome)}")
    if outcome.ended == "timeout":
        return Verdict("timeout", f"not done after {outcome.wall_s:.0f} s, {so_far}; measurement.timeout_s allows more")
    if outcome.returncode != 0:
        return Verdict("failed", f"exit status {outcome.returncode}, {so_far}; {_last_words(outcome)}")
    if not seen:
        return Verdict("no_records", "it ended well, and no training step of it was seen")
    return Verdict("inconsistent", _in_words(differences) or so_far)


def _in_words(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{d.what}: asked {d.asked}, seen {d.seen}" for d in differences)


def _last_words(outcome: Outcome) -> str:
    return f"its last words: {outcome.last_words}" if outcome.last_words else "it printed nothing"
