"""After the first steps few classes are watched, and nothing that was seen before goes unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mfubench.records.reading import RankRecord, read_records


@pytest.fixture
def trained(tmp_path: Path, run: Callable, trainers: Path) -> Callable[[str], tuple[str, RankRecord]]:
    """Trains with a change at the fifth step; which calls were watched at the end, and the record."""

    def changed(change: str) -> tuple[str, RankRecord]:
        done = run(trainers / "few_classes.py", change, records=tmp_path)
        assert done.returncode == 0, done.stderr
        (record,) = read_records(tmp_path).ranks
        return done.stdout.strip(), record

    return changed


@pytest.mark.parametrize(("change", "recomputed"), [("none", 0), ("none, recomputed", 3), ("a copy", 0)])
def test_few_classes_tell_the_same_of_every_step(trained: Callable, change: str, recomputed: int) -> None:
    watched, record = trained(change)
    assert watched == "few"
    assert record.gradient_and_recompute_counts == ((15, recomputed),) * 7  # 3 blocks of 4, embedding 1, head 2
    assert [len(step) for step in record.micro_batches] == [1] * 7
    assert record.errors == ()


def test_recomputation_that_begins_later_is_seen(trained: Callable) -> None:
    watched, record = trained("recomputation begins")
    assert watched == "few"
    assert [calls for _, calls in record.gradient_and_recompute_counts] == [0, 0, 0, 0, 0, 3, 3]


def test_a_wrapper_that_comes_later_is_seen_from_its_second_call_on(trained: Callable) -> None:
    _, record = trained("a wrapper")
    assert record.work["wrappers"] == ["Wrapper", "Model"]
    assert record.errors == ()


def test_another_model_that_comes_later_is_seen(trained: Callable) -> None:
    _, record = trained("another model")
    assert record.work["model"] == "Other"
