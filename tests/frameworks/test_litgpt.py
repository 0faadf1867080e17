"""LitGPT, as it is installed: the framework that docs/frameworks.md adds as its example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SMALL = ("framework=litgpt", "sequence_length=64", "model.architecture.num_hidden_layers=1")
ROWS = """\
{"instruction": "baba kiku", "input": "", "output": "keke"}
{"instruction": "bobo", "input": "lulu", "output": "keke bobo lulu keke bobo lulu"}
"""


@pytest.mark.parametrize(("mode", "trained"), [("full", 12_586_368), ("lora", 217_088)])
def test_litgpt_does_the_work_that_was_asked(measured: Callable[..., dict[str, Any]], mode: str, trained: int) -> None:
    result = measured("framework=litgpt", f"mode={mode}")
    assert (result["status"], result["reason"]) == ("ok", None)
    work, figures = result["work"], result["measurement"]
    # With LoRA its optimizer is given the frozen weights too; it must step the others only.
    assert [(each["class"], each["fused"], each["steps"]) for each in work["optimizers"]] == [
        ("AdamW", True, {"float32": trained})
    ]
    assert work["trainable_parameters_with_gradient"] == trained
    assert work["attention"]["sdpa_causal_calls"] == 4  # one a block, none with a mask
    assert (figures["positions_per_step"], figures["trained_tokens_per_step"]) == (512, 512)


def test_mixed_precision_computes_in_bf16_and_steps_fp32_over_all_micro_batches(
    measured: Callable[..., dict[str, Any]],
) -> None:
    result = measured(*SMALL, "precision=bf16", "gradient_accumulation_steps=2", "seed=7")
    assert (result["status"], result["reason"]) == ("ok", None)
    assert (result["work"]["linear_dtype"], set(result["work"]["optimizers"][0]["state"])) == ("bfloat16", {"float32"})
    assert result["measurement"]["positions_per_step"] == 2 * 2 * 64
    assert result["work"]["seed"] == 7


def test_real_samples_are_padded_to_the_longest_of_a_micro_batch(
    measured: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)
    result = measured(*SMALL, "data=jsonl", f"data.path={rows}", "mode=lora", "precision=bf16_pure")
    assert (result["status"], result["reason"]) == ("ok", None)
    assert set(result["work"]["optimizers"][0]["steps"]) == {"bfloat16"}


def test_a_word_that_litgpt_does_not_know_fails_with_its_own_message(measured: Callable[..., dict[str, Any]]) -> None:
    result = measured(*SMALL, "+framework.native.nonsense=1")
    assert result["status"] == "failed"
    assert "nonsense" in result["reason"]


def test_what_it_cannot_do_says_what_runs_instead(measured: Callable[..., dict[str, Any]]) -> None:
    for asked, reason in (
        (("mode=lora", "precision=bf16"), "precision=bf16_pure and precision=fp32 run"),
        (("gradient_checkpointing=non_reentrant",), "it supports none"),
        (("parallelism=fsdp2",), "it shards by FSDP1 for full fine-tuning"),
    ):
        result = measured("framework=litgpt", *asked)
        assert result["status"] == "unsupported"
        assert reason in result["reason"]
