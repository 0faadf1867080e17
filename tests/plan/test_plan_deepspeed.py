"""DeepSpeed's configuration of a run, and what contradicts the run's settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mfubench.config import Experiment, WrongCombination
from mfubench.plan.native import Place, make_plan
from mfubench.workload import Workload

WORKLOAD = Workload("/w/model", "/w/tokenizer", "/w/messages.jsonl", "/w/alpaca.jsonl", 74, None)
PLACE = Place(Path("/runs/1"), Path("/p/launchers"), Path("/p"), "/usr/bin/python3", "cuda", "bf16", 2)


@pytest.fixture
def written(compose: Callable[..., Experiment]) -> Callable[..., dict]:
    """The deepspeed.json of a run with these overrides and this resolved precision."""

    def of(*overrides: str, precision: str = "bf16") -> dict:
        planned = make_plan(compose(*overrides), WORKLOAD, replace(PLACE, precision=precision))
        tree: dict = json.loads(planned.other_files["deepspeed.json"])
        return tree

    return of


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_pure"])
def test_the_precision_is_deepspeeds(written: Callable[..., dict], precision: str) -> None:
    said = written("parallelism=zero2", "batch_size=4", "gradient_accumulation_steps=3", precision=precision)
    assert said["bf16"]["enabled"] == (precision != "fp32")
    assert said["bf16"].get("bf16_optimizer_states", False) == (precision == "bf16_pure")
    assert (said["train_micro_batch_size_per_gpu"], said["gradient_accumulation_steps"]) == (4, 3)
    assert said["zero_optimization"]["stage"] == 2
    assert "when" not in said


def test_without_deepspeed_there_is_no_file(compose: Callable[..., Experiment]) -> None:
    assert make_plan(compose("parallelism=ddp"), WORKLOAD, PLACE).other_files == {}


@pytest.mark.parametrize(
    ("overrides", "precision", "right"),
    [
        (["+parallelism.deepspeed.fp16.enabled=true"], "bf16", "parallelism.deepspeed.fp16.enabled=false"),
        (
            ["parallelism.deepspeed.when.precision.bf16.bf16.enabled=false"],
            "bf16",
            "parallelism.deepspeed.bf16.enabled=true",
        ),
        (
            ["parallelism.deepspeed.zero_optimization.stage=3"],
            "bf16",
            "parallelism.deepspeed.zero_optimization.stage=2",
        ),
        (
            ["parallelism.deepspeed.train_micro_batch_size_per_gpu=8"],
            "fp32",
            "parallelism.deepspeed.train_micro_batch_size_per_gpu=2",
        ),
        (
            ["parallelism.deepspeed.gradient_accumulation_steps=2"],
            "fp32",
            "parallelism.deepspeed.gradient_accumulation_steps=1",
        ),
    ],
)
def test_an_option_that_contradicts_a_setting_is_refused(
    written: Callable[..., dict], overrides: list[str], precision: str, right: str
) -> None:
    with pytest.raises(WrongCombination) as refused:
        written("parallelism=zero2", *overrides, precision=precision)
    assert refused.value.instead == f"++{right}"


def test_a_users_own_option_wins_over_what_the_precision_brings(written: Callable[..., dict]) -> None:
    """`+parallelism.deepspeed.bf16.enabled=false` is the obvious thing to type; it must not be overruled in silence."""
    with pytest.raises(WrongCombination, match=r"bf16\.enabled=false contradicts precision=bf16"):
        written("parallelism=zero2", "+parallelism.deepspeed.bf16.enabled=false")
    said = written("parallelism=zero2", "+parallelism.deepspeed.bf16.immediate_grad_update=true")
    assert said["bf16"] == {"enabled": True, "immediate_grad_update": True}


def test_auto_contradicts_nothing(written: Callable[..., dict]) -> None:
    assert written("parallelism=zero2", "parallelism.deepspeed.gradient_accumulation_steps=auto")
