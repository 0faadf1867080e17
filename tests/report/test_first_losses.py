"""First losses beside a ratio: compared where they must agree, and a reason where they needn't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mfubench.report.overview import overview
from mfubench.result import Result

Made = Callable[..., Result]
BATCH = [441420181, 510]


@pytest.fixture
def said(result: Made) -> Callable[..., str]:
    """What stands under the ratio of two frameworks that read the disk's weights; changes are of the second one's run."""

    def beside(
        losses: tuple[float | None, float | None],
        *overrides: str,
        common: dict[str, Any] | None = None,
        of_first: list[list[int]] | None = None,
        **work: Any,
    ) -> str:
        runs = []
        for loss, framework in zip(losses, ("trl", "llama_factory"), strict=True):
            settings = (f"framework={framework}", *(overrides if runs else ()))
            seen = dict(result().work or {}) | {"first_step": of_first or [BATCH]} | (work if runs else {})
            figures = {"loss_first": loss}
            runs.append(
                result(*settings, framework=framework, work=seen, measurement=figures, **common or {}, seconds=None)
            )
        ((line,),) = overview(runs).ratios.values()
        return line.differences

    return beside


def test_losses_that_agree_are_not_mentioned(said: Callable[..., str]) -> None:
    assert said((9.081917, 9.081916)) == ""
    assert said((None, None)) == ""  # of results before losses were recorded


def test_losses_further_apart_than_arithmetic_explains_are_marked_and_make_it_other_work(
    said: Callable[..., str],
) -> None:
    """1e-5 of 9.08 is 0.00009."""
    marked = "over different work: loss of the first step 9.08203 instead of 9.081917"
    assert said((9.081917, 9.08203)) == marked
    assert said((9.081917, 9.08199)) == ""


@pytest.mark.parametrize("hardware", [{"precision": "bf16"}, {"precision": "fp32", "device": "cuda"}])
def test_in_bf16_and_in_tf32_twenty_times_as_much_is_explained(
    said: Callable[..., str], hardware: dict[str, Any]
) -> None:
    assert said((9.081917, 9.0837), common={"hardware": hardware}) == ""
    assert "loss of the first step 9.0838 instead" in said((9.081917, 9.0838), common={"hardware": hardware})


@pytest.mark.parametrize(
    ("overrides", "work", "reason"),
    [
        ((), {"first_step": [[441420182, 510]]}, "other token ids in the first step"),
        ((), {"first_step": [[441420181, 474]]}, "other trained tokens in the first step"),
        ((), {"first_step": [[441420181, None]]}, "the trained tokens of the first step aren't known"),
        ((), {"first_step": []}, "the token ids of the first step aren't known"),
        (
            ("framework.random_weights=device",),
            {},
            "other weights (the disk's, seed 0 and llama_factory's own on cpu, single, seed 0)",
        ),
        (("seed=1",), {}, "other weights (the disk's, seed 0 and the disk's, seed 1)"),
        ((), {"quantized": {"nf4": 1}}, "fp32 and fp32 nf4"),
    ],
)
def test_losses_that_need_not_agree_are_not_compared_and_the_reason_is_said(
    said: Callable[..., str], overrides: tuple[str, ...], work: dict[str, Any], reason: str
) -> None:
    told = said((9.1, 9.2), *overrides, **work)
    assert told.endswith(f"losses not compared: {reason}") and "loss of the first step" not in told


def test_a_loss_that_only_one_of_two_runs_has_is_said(said: Callable[..., str]) -> None:
    assert said((9.1, None)) == "losses not compared: that of llama_factory isn't known"


def test_micro_batches_in_another_order_are_the_same(said: Callable[..., str]) -> None:
    assert said((9.1, 9.1), of_first=[[1, 510], [2, 508]], first_step=[[2, 508], [1, 510]]) == ""
