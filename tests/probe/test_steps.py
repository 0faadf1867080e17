"""What the probe takes for a step, on a trainer whose every duration is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import pytest

from mfubench.records import MicroBatch, RankRecord, read

KNOWN_S = {"0.1 s": 0.1, "0.25 s": 0.25, "0.5 s": 0.5}
SCENARIOS = {
    "0.1 s": "--seconds 0.1 --steps 24 --stopwatch {stopwatch}",
    "0.25 s": "--seconds 0.25 --steps 12 --stopwatch {stopwatch}",
    "0.5 s": "--seconds 0.5 --steps 8 --stopwatch {stopwatch}",
    "two optimizer steps": "--optimizer-steps 2",
    "optimizer before training": "--optimizer-before-training",
    "accumulation": "--accumulate 3 --seconds 0.3",
    "evaluation": "--evaluate",
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
    options = {name: text.format(stopwatch=folder / f"{name[:-2]}.json") for name, text in SCENARIOS.items()}
    return run_several("sleeper.py", options, folder / "records", "torch._dynamo")


@pytest.mark.parametrize("scenario", KNOWN_S)
def test_a_step_takes_the_known_time_within_a_percent(records: dict[str, RankRecord], scenario: str) -> None:
    # The median over windows of half the run: a busy machine delays single steps, and the trainer then catches up. The
    # first two boundaries are left out, since what delays them makes every window that begins there too short.
    at = records[scenario].boundaries_s[2:]
    half = len(at) // 2
    windows = [(after - before) / half for before, after in zip(at, at[half:], strict=False)]
    assert median(windows) == pytest.approx(KNOWN_S[scenario], rel=0.01)


@pytest.mark.parametrize("scenario", KNOWN_S)
def test_the_mean_step_time_is_that_of_the_trainers_own_stopwatch(
    records: dict[str, RankRecord], folder: Path, scenario: str
) -> None:
    started = json.loads((folder / f"{scenario[:-2]}.json").read_text())
    by_stopwatch = [after - before for before, after in pairwise(started)]
    times = records[scenario].step_times_s
    assert len(times) == len(by_stopwatch)
    assert mean(times[1:]) == pytest.approx(mean(by_stopwatch[1:]), rel=0.01)


def test_steps_of_several_micro_batches_take_the_time_of_all_of_them(records: dict[str, RankRecord]) -> None:
    record = records["accumulation"]
    assert record.micro_batches == ((BATCH,) * 3,) * 4
    assert median(record.step_times_s[1:]) == pytest.approx(0.3, rel=0.03)


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
    work = records["0.1 s"].work
    parameters = 32 * 8 + (8 * 32 + 32)
    assert (
        work["parameters"] == work["trainable_parameters"] == work["trainable_parameters_with_gradient"] == parameters
    )
    assert work["optimizers"] == [
        {"class": "AdamW", "fused": None, "steps": {"float32": parameters}, "state": {"float32": 2 * parameters}}
    ]
    assert (work["recomputation"], work["world_size"], work["threads"], work["compiled"]) == ("none", 1, 1, False)
    assert records["0.1 s"].memory_kind == "process_peak_rss"
    assert records["0.1 s"].versions["torch"]


def test_training_comes_out_the_same_with_and_without_the_probe(tmp_path: Path, run: Callable, trainers: Path) -> None:
    bare = run(trainers / "sleeper.py", records=None)
    probed = run(trainers / "sleeper.py", records=tmp_path)
    assert bare.returncode == probed.returncode == 0
    assert bare.stdout == probed.stdout != ""
    assert probed.stderr == bare.stderr
    assert len(read(tmp_path).ranks[0].step_times_s) == 4
