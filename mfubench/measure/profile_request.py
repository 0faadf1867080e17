"""Ask every rank to profile a few steps after the measured ones, and wait for what they write (probe/step_profile.py)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil

from mfubench.config import Measurement
from mfubench.files.whole import write_whole
from mfubench.launch.supervision import check_room
from mfubench.plan.plan import Plan
from mfubench.records.rank_events import RankEvents

LEAD_S = 0.5  # from the last look at the records until every rank has seen the request
DEADLINE_S = 60.0  # for the profiler's start, its stop, and what is written
SLOWER = 5.0  # times as long as the slowest step that a step under the profiler may take


@dataclass
class ProfileRequest:
    """The request for the steps to profile: the first one's number is the same on every rank."""

    plan: Plan
    steps: int
    keep_trace: bool
    first: int
    deadline_s: float | None = None  # on the monotonic clock; None: not enough is measured yet

    def enough(self, ranks: Mapping[str, RankEvents]) -> None:
        """Name an earlier step, as enough is measured: one that no rank has begun when it hears of it."""
        series: list[Sequence[float]] = [rank.step_times_s[-self.steps :] for rank in ranks.values()]
        fastest, slowest = (pick(pick(times) for times in series) for pick in (min, max))
        furthest = max(len(rank.boundaries) - 1 for rank in ranks.values())
        first = furthest + 2 + ceil(LEAD_S / fastest)
        if first < self.first:
            self.first = first
            self.write()
        steps = self.first + self.steps - furthest
        self.deadline_s = time.monotonic() + DEADLINE_S + SLOWER * slowest * steps

    @property
    def over(self) -> bool:
        """True if every rank has written a profile, or why it has none, or if the time for it is over."""
        if self.deadline_s is None:
            return False
        written = {path.name for path in self.plan.records.glob("profile.rank*.json")}
        everyone = written >= {f"profile.rank{rank}.json" for rank in range(self.plan.num_ranks)}
        return everyone or time.monotonic() > self.deadline_s

    def write(self) -> None:
        """Write it for the ranks, which look for it once a step."""
        request = {"first": self.first, "steps": self.steps, "keep_trace": self.keep_trace}
        with suppress(OSError):  # the disk is full: no profile, then
            write_whole(self.plan.records / "profile.json", json.dumps(request))


def profile_request(plan: Plan, measurement: Measurement) -> ProfileRequest | None:
    """Write the request before the start, if a profile is wanted. Raises OSError if the disk is too full for the traces.

    It names the first step that can't be measured, so that a run that goes to its last step is profiled without delay.
    """
    if not measurement.profile_steps:
        return None
    check_room(plan.folder, measurement.profile_steps * plan.num_ranks if measurement.keep_trace else 0)
    request = ProfileRequest(plan, measurement.profile_steps, measurement.keep_trace, first=plan.periods + 1)
    plan.records.mkdir(parents=True, exist_ok=True)
    request.write()
    return request
