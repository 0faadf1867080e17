"""Steps whose forwards are out of sight: they begin where parameters are stepped again."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from mfubench.records.reading import RankRecord

SCENARIOS = {
    "the model's forward called directly": "--hidden forward",
    "one compiled function": "--hidden compiled",
    "accumulation": "--accumulation 2",
    "two optimizers in turns": "--optimizers two",
    "an optimizer per parameter in the backward pass": "--optimizers 'in backward'",
    "no loader": "--no-loader",
    "forwards in sight, and optimizers that step twice": "--hidden none --times 2",
}
HIDDEN = [name for name in SCENARIOS if "in sight" not in name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def records(folder: Path, run_several: Callable[..., dict[str, RankRecord]]) -> dict[str, RankRecord]:
    (folder / "records").mkdir()
    options = {
        name: f"{text} --stopwatch {folder}/{number}.json" for number, (name, text) in enumerate(SCENARIOS.items())
    }
    return run_several("hidden.py", options, folder / "records", "torch._dynamo")


@pytest.mark.parametrize("scenario", HIDDEN)
def test_steps_without_forwards_take_what_the_trainers_own_clock_says(
    records: dict[str, RankRecord], folder: Path, scenario: str
) -> None:
    record = records[scenario]
    began = json.loads((folder / f"{list(SCENARIOS).index(scenario)}.json").read_text())
    true_s = [after - before for before, after in pairwise(began)]
    # Of 12 steps 3 have forwards in sight; the next is the first that steps again, and boundaries begin after it.
    assert record.boundary == "optimizer"
    assert len(record.step_times_s) == 7
    assert sum(record.step_times_s) == pytest.approx(sum(true_s[-7:]), rel=0.01)
    assert record.step_times_s == pytest.approx(true_s[-7:], rel=0.05)  # a busy machine may come between the two clocks
    assert record.to_optimizer_s == (None,) * 7
    assert record.errors == ()
    assert len(set(record.gradient_and_recompute_counts)) == 1


@pytest.mark.parametrize("scenario", HIDDEN)
def test_micro_batches_without_forwards_are_those_of_the_loader(records: dict[str, RankRecord], scenario: str) -> None:
    wanted = {"no loader": 0, "accumulation": 2}.get(scenario, 1)
    for step in records[scenario].micro_batches:
        assert [(each.batch_size, each.sequence_length) for each in step] == [(2, 4)] * wanted


def test_optimizers_that_step_twice_open_no_step_while_forwards_are_in_sight(records: dict[str, RankRecord]) -> None:
    record = records["forwards in sight, and optimizers that step twice"]
    assert record.boundary == "forward"
    assert len(record.step_times_s) == 11
