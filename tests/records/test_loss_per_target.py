"""The mean loss per target, of scalars that frameworks really called backward() on: llama-tiny, [2, 256] tokens, fp32."""

from __future__ import annotations

import math

import pytest

from mfubench.records.expected import Expected
from mfubench.records.invariants import differences
from mfubench.records.loss import finite, first_loss, last_loss, loss_per_target
from mfubench.records.reading import MicroBatch, RankRecord, Records

BATCH = MicroBatch(2, 256, 512, 512, targets=510)
UNKNOWN = MicroBatch(2, 256, None, None)


@pytest.mark.parametrize(
    ("word", "scalars", "loss"),
    [
        ("mean", [[9.08192]], 9.08192),  # transformers' Trainer; its scalars are sums over 510 targets / 510
        ("mean", [[4.54096, 4.53323]], 9.07419),  # two micro-batches: each / the 1,020 targets of both
        ("mean", [[9.08192], [9.06646]], 9.07419),  # DDP: each rank's sum x 2 / 1,020; the same two batches
        ("mean", [[4.54096, 4.53643], [4.53323, 4.54289]], 9.076755),  # ZeRO 2, two micro-batches on each of two ranks
        ("token_sum", [[4649.92]], 9.081875),  # torchtune: mean x 512 labels
        ("token_sum", [[4649.92, 4641.28]], 9.0734375),  # (4649.92 + 4641.28) / 1,024 = 9291.2 / 1,024
        ("mean_of_unshifted", [[9.04644]], 9.0819162),  # LLaMA-Factory: sum / 512 labels; x 512 / 510
        ("mean_of_unshifted", [[4.52322, 4.51552]], 9.0741860),  # 9.03874 x 1,024 / 1,020
    ],
)
def test_the_scalars_of_frameworks_are_one_mean_per_target(
    word: str, scalars: list[list[float | None]], loss: float
) -> None:
    batches = [BATCH for rank in scalars for _ in rank]
    assert loss_per_target(word, scalars, batches) == pytest.approx(loss, rel=1e-7)


def test_all_frameworks_that_read_the_same_two_micro_batches_agree() -> None:
    """Within the five digits that were noted: the words bring three scales to one."""
    of_two = [
        loss_per_target("mean", [[4.54096, 4.53323]], [BATCH] * 2),
        loss_per_target("mean_of_unshifted", [[4.52322, 4.51552]], [BATCH] * 2),
        loss_per_target("token_sum", [[4649.92, 4641.28]], [BATCH] * 2),
    ]
    assert of_two == pytest.approx([9.07419] * 3, rel=1e-4)


def test_an_uneven_step_is_divided_by_all_its_tokens() -> None:
    """Micro-batches of 4 and 2 labels, 3 and 1 of them targets, mean losses 2 and 5."""
    batches = [MicroBatch(1, 4, 4, 4, targets=3), MicroBatch(1, 4, 4, 2, targets=1)]
    assert loss_per_target("token_sum", [[2 * 4.0, 5 * 2.0]], batches) == pytest.approx(18 / 6)
    assert loss_per_target("mean_of_unshifted", [[6 / 6, 5 / 6]], batches) == pytest.approx((2 * 3 + 5 * 1) / 4)


@pytest.mark.parametrize("scalars", [[], [[]], [None], [[9.0, None]], [[9.0], None], [[9.0], []]])
def test_a_scalar_that_is_not_known_makes_the_loss_unknown(scalars: list[list[float | None] | None]) -> None:
    assert loss_per_target("mean", scalars, [BATCH]) is None


def test_only_the_words_that_need_a_count_are_unknown_without_it() -> None:
    found = [loss_per_target(word, [[9.0]], [UNKNOWN]) for word in ("mean", "token_sum", "mean_of_unshifted")]
    assert found == [9.0, None, None]


def record(*losses: tuple[float, ...] | None, rank: int = 0) -> RankRecord:
    """A rank with one micro-batch in each step."""
    return RankRecord(rank, 1, (), (), None, ((BATCH,),) * 3, None, None, {}, {}, (), losses=losses)


def test_the_last_loss_is_that_of_the_last_measured_step_or_of_the_end_on_a_device() -> None:
    on_cpu = Records((record((9.0,), (8.0,), (7.0,), (6.0,)),))
    assert (first_loss("mean", on_cpu), last_loss("mean", on_cpu, 3)) == (9.0, 7.0)
    on_gpu = Records((record((9.0,), None, None, (6.0,)), record((9.5,), None, None, (6.5,), rank=1)))
    assert (first_loss("mean", on_gpu), last_loss("mean", on_gpu, 3)) == (9.25, 6.25)
    ended_by_us = Records((record((9.0,), None, None),))
    assert last_loss("mean", ended_by_us, 3) is None
    assert (first_loss("mean", Records(())), last_loss("mean", Records(()), 3)) == (None, None)


def test_a_loss_that_is_not_finite_is_a_difference_and_no_figure() -> None:
    expected = Expected(1, (2, 256), 1, periods=0, trainable_parameters=1, recomputation=None, wrapper=None)
    (found,) = differences(Records((record((9.0,), None, (None,), (math.nan,), (math.inf,)),)), expected)
    assert (found.what, found.asked, found.seen) == ("losses on rank 0", "finite numbers", "nan in step 4")
    assert differences(Records((record((9.0,), (8.0,)),)), expected) == ()
    assert [finite(loss) for loss in (9.0, math.nan, -math.inf, None)] == [9.0, None, None, None]
