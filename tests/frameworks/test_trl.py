"""TRL, really run: the work is what was asked for, on one rank and on two; and what it can't do it says itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_keys import known, written

TRL = "framework=trl"
SHORT = ("sequence_length=64", "batch_size=1")
KEYS = """
from dataclasses import fields
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig
for arguments in (DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig):
    for field in fields(arguments):
        if field.init:
            print(f"+{field.name}")
"""

Measured = Callable[..., dict[str, Any]]


def test_every_native_key_is_one_of_the_frameworks() -> None:
    assert written("trl") - known("trl", KEYS) == {
        "accelerate_config"
    }  # which `trl sft` reads before its script is started


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_every_position_is_computed_and_trained_on(measured: Measured, mode: str) -> None:
    result = measured(TRL, f"mode={mode}")
    assert (result["status"], result["reason"]) == ("ok", None)
    measurement = result["measurement"]
    assert measurement["positions_per_step"] == measurement["real_tokens_per_step"] == 2 * 256
    assert measurement["trained_tokens_per_step"] == 2 * 256
    assert result["work"]["recomputation"] == "none"  # its own default is to recompute


@pytest.mark.parametrize(("kind", "precision"), [("reentrant", "bf16"), ("non_reentrant", "fp32")])
def test_checkpointing_is_of_the_kind_that_was_asked_for(measured: Measured, kind: str, precision: str) -> None:
    result = measured(TRL, "mode=lora", f"gradient_checkpointing={kind}", f"precision={precision}", *SHORT)
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["work"]["recomputation"] == kind


def test_lora_in_bf16_holds_frozen_weights_in_bf16_and_steps_fp32(measured: Measured) -> None:
    work = measured(TRL, "mode=lora", "gradient_checkpointing=reentrant", "precision=bf16", *SHORT)["work"]
    assert (set(work["dtypes"]["frozen"]), set(work["dtypes"]["trainable"])) == ({"bfloat16"}, {"float32"})
    assert work["autocast"] == "bfloat16"


@pytest.mark.parametrize(("parallelism", "wrapper"), [("ddp", "DistributedDataParallel"), ("zero2", "DeepSpeedEngine")])
def test_two_ranks_are_two_and_train_together(measured: Measured, parallelism: str, wrapper: str) -> None:
    result = measured(TRL, f"parallelism={parallelism}", *SHORT)
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["work"]["world_size"] == 2
    assert wrapper in result["work"]["parallel_wrappers"]


def test_short_samples_are_padded_as_far_as_was_asked_for(measured: Measured, tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "babe bibo"}, {"role": "assistant", "content": "bubu"}]}\n'
    (tmp_path / "chat.jsonl").write_text(row * 8)
    data = (TRL, "data=jsonl", f"data.path={tmp_path / 'chat.jsonl'}", *SHORT)
    longest = measured(*data)
    padded = measured(*data, "data.padding=max_length")
    assert {longest["status"], padded["status"]} == {"ok"}
    assert longest["measurement"]["positions_per_step"] == longest["measurement"]["real_tokens_per_step"] < 64
    assert padded["measurement"]["positions_per_step"] == 64
    assert padded["measurement"]["real_tokens_per_step"] == longest["measurement"]["real_tokens_per_step"]


def test_lora_on_lm_head_is_unsupported_because_the_framework_itself_refuses_it(measured: Measured) -> None:
    result = measured(TRL, "mode=lora", "mode.target_modules=[q_proj,lm_head]")
    assert result["status"] == "unsupported"
    assert "lm_head's own weight" in result["reason"]
    insisted = measured(TRL, "mode=lora", "+framework.native.lora_target_modules=[q_proj,lm_head]")
    assert insisted["status"] == "failed"
    assert "Applying a PEFT adapter to `lm_head` is not supported" in insisted["reason"]


def test_a_key_that_it_does_not_know_is_an_error_in_its_own_words(measured: Measured) -> None:
    result = measured(TRL, "+framework.native.max_lenght=64")
    assert result["status"] == "failed"
    assert "max_lenght" in result["reason"]
