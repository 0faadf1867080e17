"""When a run stands still: by hand-worked times."""

from __future__ import annotations

from mfubench.launch.supervision import Stall


def test_before_the_first_step_nothing_is_a_stall() -> None:
    stall = Stall(None)
    assert [stall.poll({}, now) for now in (0.0, 1e5)] == [None, None]
    assert [stall.poll({"rank0": ()}, now) for now in (2e5, 3e5)] == [None, None]


def test_twenty_times_the_slowest_step_is_allowed_and_two_minutes_at_least() -> None:
    quick, slow = Stall(None), Stall(None)
    for stall, times in ((quick, [0.5, 0.1]), (slow, [30.0, 1.0])):  # the first one compiles
        assert stall.poll({"rank0": times}, 100.0) is None
    assert quick.poll({"rank0": [0.5, 0.1]}, 220.0) is None
    assert quick.poll({"rank0": [0.5, 0.1]}, 221.0) == "no step ended for 121 s: rank0 after 2"
    assert slow.poll({"rank0": [30.0, 1.0]}, 700.0) is None
    assert slow.poll({"rank0": [30.0, 1.0]}, 701.0) == "no step ended for 601 s: rank0 after 2"


def test_a_new_step_of_any_rank_begins_the_wait_anew_and_each_ranks_place_is_told() -> None:
    stall = Stall(10.0)
    assert stall.poll({"rank0": [1.0], "rank1": [1.0]}, 0.0) is None
    assert stall.poll({"rank0": [1.0, 1.0], "rank1": [1.0]}, 9.0) is None
    assert stall.poll({"rank0": [1.0, 1.0], "rank1": [1.0]}, 19.0) is None
    still = stall.poll({"rank0": [1.0, 1.0], "rank1": [1.0]}, 20.0)
    assert still == "no step ended for 11 s: rank0 after 2, rank1 after 1"
