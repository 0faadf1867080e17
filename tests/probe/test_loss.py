"""The scalar that backward() is called on, of real trainers: right ones agree, and wrong ones are seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mfubench.records.loss import first_loss, last_loss
from mfubench.records.reading import RankRecord, Records
from mfubench.report.first_losses import TOLERANCE

SCENARIOS = {
    "fp32": "",
    "fp32, eager": "--attention eager",
    "fp32, reentrant": "--checkpointing reentrant",
    "fp32, non_reentrant": "--checkpointing non_reentrant",
    "token_sum": "--scalar token_sum",
    "mean_of_unshifted": "--scalar mean_of_unshifted",
    "two micro-batches": "--accumulation 2",
    "two micro-batches, token_sum": "--accumulation 2 --scalar token_sum",
    "two micro-batches, mean_of_unshifted": "--accumulation 2 --scalar mean_of_unshifted",
    "bf16": "--bf16",
    "bf16, eager": "--bf16 --attention eager",
    "bf16, reentrant": "--bf16 --checkpointing reentrant",
    "prompt masked": "--wrong 'prompt masked'",
    "labels shifted twice": "--wrong 'labels shifted twice'",
    "other weights": "--wrong 'other weights'",
    "in place": "--broken 'in place'",
    "infinite": "--broken infinite",
}
WRONG = ("prompt masked", "labels shifted twice", "other weights")


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory, run_several: Callable[..., dict[str, RankRecord]]
) -> dict[str, RankRecord]:
    folder = tmp_path_factory.mktemp("losses")
    return run_several("losses.py", SCENARIOS, folder, "transformers.models.llama.modeling_llama")


def loss(record: RankRecord, word: str = "mean") -> float:
    """The mean loss per target of its first step."""
    found = first_loss(word, Records((record,)))
    assert found is not None and record.errors == ()
    return found


@pytest.mark.parametrize("same", ["fp32, eager", "fp32, reentrant", "fp32, non_reentrant"])
def test_in_fp32_losses_agree_to_1e_5_whatever_the_kernels_and_the_recomputation(
    records: dict[str, RankRecord], same: str
) -> None:
    """Reentrant checkpointing calls backward() inside the backward pass, once for each block: these are no losses."""
    assert loss(records[same]) == pytest.approx(loss(records["fp32"]), rel=TOLERANCE["fp32"])
    assert [len(step or ()) for step in records[same].losses] == [1, 1]


@pytest.mark.parametrize("same", ["bf16, eager", "bf16, reentrant"])
def test_in_bf16_losses_agree_to_2e_4(records: dict[str, RankRecord], same: str) -> None:
    assert loss(records[same]) == pytest.approx(loss(records["bf16"]), rel=TOLERANCE["bf16"])


@pytest.mark.parametrize("word", ["token_sum", "mean_of_unshifted"])
def test_a_scalar_of_any_scale_is_the_same_mean(records: dict[str, RankRecord], word: str) -> None:
    assert loss(records[word], word) == pytest.approx(loss(records["fp32"]), rel=1e-6)
    two, of_word = records["two micro-batches"], records[f"two micro-batches, {word}"]
    assert loss(of_word, word) == pytest.approx(loss(two), rel=1e-6)
    assert [len(step or ()) for step in two.losses] == [2, 2]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_trainer_differs_by_five_times_the_tolerance_of_bf16(
    records: dict[str, RankRecord], wrong: str
) -> None:
    right = loss(records["fp32"])
    assert abs(loss(records[wrong]) - right) >= 5 * TOLERANCE["bf16"] * right


def test_the_loaders_counts_of_a_wrong_trainer_are_those_of_a_right_one(records: dict[str, RankRecord]) -> None:
    """It is told by its loss alone: [2, 128] tokens, all trained, of which 127 in each sequence have one before them."""
    batches = [records[name].micro_batches[0][0] for name in ("fp32", *WRONG)]
    assert {(batch.trained_tokens, batch.targets, batch.checksum) for batch in batches} == {
        (256, 254, batches[0].checksum)
    }


def test_a_scalar_changed_in_place_is_not_known(records: dict[str, RankRecord]) -> None:
    assert records["in place"].losses == ((None,), (None,))


def test_an_infinite_loss_is_recorded(records: dict[str, RankRecord]) -> None:
    assert loss(records["infinite"]) == float("inf")
    assert last_loss("mean", Records((records["infinite"],)), 2) is not None
