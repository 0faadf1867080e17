"""The step with which a profile begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mfubench.config import Experiment
from mfubench.measure.profile_request import DEADLINE_S, ProfileRequest, profile_request
from mfubench.plan.plan import Plan
from mfubench.records.rank_events import RankEvents


def after(*times_s: float) -> RankEvents:
    """A rank that has taken steps of these times."""
    rank, now = RankEvents(), 0
    for time_s in (0.0, *times_s):
        now += round(time_s * 1e9)
        rank.forwards.append([{"event": "forward", "t": now, "step": len(rank.forwards)}])
    return rank


@pytest.fixture
def request_of(compose: Callable[..., Experiment], planned: Callable[..., Plan], tmp_path: Path) -> ProfileRequest:
    """A request for a profile of three steps, after 5 of warm-up and 200 that are measured; as it stands at the start."""
    experiment = compose("measurement=default")
    made = profile_request(planned(experiment, tmp_path), experiment.measurement)
    assert made is not None
    return made


def first_in(request: ProfileRequest) -> int:
    return json.loads((request.plan.records / "profile.json").read_text())["first"]


def test_at_first_the_step_is_named_that_no_rule_can_measure(request_of: ProfileRequest) -> None:
    assert first_in(request_of) == 206 and not request_of.over  # step 205 is after the last period, and is left out


def test_once_enough_is_measured_a_step_is_named_that_no_rank_has_begun_half_a_second_later(
    request_of: ProfileRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    request_of.enough({"rank0": after(*[0.2] * 40), "rank1": after(*[0.1] * 41)})
    assert first_in(request_of) == 41 + 2 + 5  # the furthest rank is in step 41; half a second is five of its steps
    steps = 48 + 3 - 41
    assert request_of.deadline_s == pytest.approx(1000 + DEADLINE_S + 5 * 0.2 * steps)


def test_a_run_at_its_last_steps_keeps_the_step_named_first(request_of: ProfileRequest) -> None:
    request_of.enough({"rank0": after(*[0.1] * 204)})
    assert first_in(request_of) == 206


def test_it_is_over_when_every_rank_has_written_or_the_time_is_over(
    request_of: ProfileRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_of.enough({"rank0": after(*[0.1] * 40)})
    assert not request_of.over
    (request_of.plan.records / "profile.rank0.json").touch()
    assert request_of.over
    (request_of.plan.records / "profile.rank0.json").unlink()
    monkeypatch.setattr("time.monotonic", lambda: float("inf"))
    assert request_of.over
