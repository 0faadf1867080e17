"""What the probe takes for a step, on a trainer whose every duration is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest

from mfubench.measure.step_breakdown import step_breakdown
from mfubench.records.reading import MicroBatch, RankRecord, read_records

# Steps whose every part sleeps for a known time, over three orders of magnitude.
TIMED = {
    "2 ms": "--seconds 0.002 --loading-seconds 0.0004 --optimizer-seconds 0.0006 --steps 60",
    "20 ms": "--seconds 0.02 --loading-seconds 0.004 --optimizer-seconds 0.006 --steps 30",
    "0.2 s": "--seconds 0.2 --loading-seconds 0.04 --optimizer-seconds 0.06 --steps 10",
    "1.2 s": "--seconds 1.2 --loading-seconds 0.24 --optimizer-seconds 0.36 --steps 4",
    "accumulation": "--seconds 0.3 --accumulate 3",
    "two optimizer steps": "--optimizer-steps 2 --optimizer-seconds 0.02",
    "evaluation": "--evaluate",
}
SCENARIOS = {
    **{name: f"{options} --stopwatch {{folder}}/{name.replace(' ', '-')}.json" for name, options in TIMED.items()},
    "optimizer before training": "--optimizer-before-training",
    "embedding alone": "--embed-alone",
    "wrapped late": "--wrap-late",
    "killed": "--die-after 3 --steps 100",
}
# Of the default batch of 2 x 16: 3 positions of each sample are padding, 5 have no label.
BATCH = MicroBatch(2, 16, real_tokens=26, trained_tokens=22)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def records(folder: Path, run_several: Callable[..., dict[str, RankRecord]]) -> dict[str, RankRecord]:
    (folder / "records").mkdir()
    options = {name: text.format(folder=folder) for name, text in SCENARIOS.items()}
    return run_several("sleeper.py", options, folder / "records", "torch._dynamo")


@pytest.fixture
def stopwatch(folder: Path, records: dict[str, RankRecord]) -> Callable[[str], dict[str, list[tuple[float, float]]]]:
    """What the trainer's own clock says of a scenario, by the least and the most that it can have been."""

    def read_off(scenario: str) -> dict[str, list[tuple[float, float]]]:
        told = json.loads((folder / f"{scenario.replace(' ', '-')}.json").read_text())
        forward, optimizer = told["forward"], told["optimizer"]
        return {
            "step": [(b[0] - a[1], b[1] - a[0]) for a, b in pairwise(forward)],
            "to optimizer": [(b[0] - a[1], b[1] - a[0]) for a, b in zip(forward, optimizer, strict=True)],
            "loading": [(least, most) for least, most in told["loading_s"]],
        }

    return read_off


def all_between(times: Sequence[float | None], bounds: Sequence[tuple[float, float]]) -> bool:
    rounding = 1e-6  # what is told in ns, as a difference of large numbers
    return all(
        time is not None and low - rounding <= time <= high + rounding
        for time, (low, high) in zip(times, bounds, strict=True)
    )


@pytest.mark.parametrize("scenario", TIMED)
def test_steps_and_their_parts_take_what_the_trainers_own_clock_says(
    records: dict[str, RankRecord], stopwatch: Callable, scenario: str
) -> None:
    record, own = records[scenario], stopwatch(scenario)
    assert all_between(record.step_times_s, own["step"])
    assert all_between(record.to_optimizer_s, own["to optimizer"][:-1])
    # A batch is waited for before its forward: in the period before.
    per_step = len(own["loading"]) // (len(record.step_times_s) + 1)
    if per_step == 1 and scenario != "evaluation":
        assert all_between(record.data_waits_s, own["loading"][1:])


@pytest.mark.parametrize(("scenario", "step_s"), [("2 ms", 0.002), ("20 ms", 0.02), ("0.2 s", 0.2), ("1.2 s", 1.2)])
def test_no_part_is_shorter_than_what_is_known_to_be_in_it(
    records: dict[str, RankRecord], scenario: str, step_s: float
) -> None:
    """Sleeps are at least as long as asked for; the forward's is what is left of the step, but for steps that come late."""
    record = records[scenario]
    steps = len(record.step_times_s) - 2
    told = step_breakdown(record, 2, steps)
    assert told.data_wait_s is not None and told.data_wait_s >= 0.2 * step_s
    assert told.optimizer_to_forward_s is not None and told.optimizer_to_forward_s >= 0.5 * step_s
    assert told.forward_to_optimizer_s is not None
    in_all = told.forward_to_optimizer_s + told.optimizer_to_forward_s
    assert in_all == pytest.approx(mean(record.step_times_s[2:]))
    assert told.probe_s is not None and 0 < told.probe_s < in_all


def test_a_step_of_several_micro_batches_waits_for_all_of_their_batches(
    records: dict[str, RankRecord], stopwatch: Callable
) -> None:
    record = records["accumulation"]
    assert record.micro_batches == ((BATCH,) * 3,) * 4
    loads = stopwatch("accumulation")["loading"]
    # Of step k + 1 the first, of step k the others.
    bounds = [tuple(map(sum, zip(*loads[n : n + 3], strict=True))) for n in range(1, len(loads) - 3, 3)]
    assert all_between(record.data_waits_s, bounds)


def test_batches_that_evaluation_waits_for_are_waited_for_too(
    records: dict[str, RankRecord], stopwatch: Callable
) -> None:
    loads = stopwatch("evaluation")["loading"][1:]
    waits = records["evaluation"].data_waits_s
    assert all(wait is not None and wait > own for wait, (own, _) in zip(waits, loads, strict=True))


@pytest.mark.parametrize(
    "scenario", ["two optimizer steps", "optimizer before training", "evaluation", "embedding alone"]
)
def test_an_oddity_around_the_forwards_makes_no_steps_and_no_micro_batches(
    records: dict[str, RankRecord], scenario: str
) -> None:
    record = records[scenario]
    assert record.micro_batches == ((BATCH,),) * 4
    assert record.errors == ()


def test_a_wrapper_that_comes_later_is_the_root_from_then_on(records: dict[str, RankRecord]) -> None:
    record = records["wrapped late"]
    assert record.work["wrappers"] == ["Wrapper", "Sleeper"]
    assert record.micro_batches == ((BATCH,),) * 4
    assert record.errors == ()


def test_a_killed_trainer_leaves_readable_records(records: dict[str, RankRecord]) -> None:
    assert len(records["killed"].step_times_s) == 3
    assert records["killed"].work["model"] == "Sleeper"


def test_the_work_of_a_plain_model_is_described(records: dict[str, RankRecord]) -> None:
    work = records["2 ms"].work
    parameters = 32 * 8 + (8 * 32 + 32)
    assert (
        work["parameters"] == work["trainable_parameters"] == work["trainable_parameters_with_gradient"] == parameters
    )
    assert work["optimizers"] == [
        {"class": "SlowAdamW", "fused": None, "steps": {"float32": parameters}, "state": {"float32": 2 * parameters}}
    ]
    assert (work["recomputation"], work["world_size"], work["threads"], work["compiled"]) == ("none", 1, 1, False)
    assert records["2 ms"].memory_kind == "process_peak_rss"
    assert records["2 ms"].versions["torch"]


def test_training_comes_out_the_same_with_and_without_the_probe(tmp_path: Path, run: Callable, trainers: Path) -> None:
    bare = run(trainers / "sleeper.py", records=None)
    probed = run(trainers / "sleeper.py", records=tmp_path)
    assert bare.returncode == probed.returncode == 0
    assert bare.stdout == probed.stdout != ""
    assert probed.stderr == bare.stderr
    assert len(read_records(tmp_path).ranks[0].step_times_s) == 4
