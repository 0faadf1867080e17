"""What is wrong in a file, and what a file leaves open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def settings(modules: SimpleNamespace, changed_file: Callable[..., Path]) -> Callable[..., Any]:
    """Fields in, out what the published file with them changed is read as."""
    return lambda **changed: modules.schema.read(changed_file(**changed))


def test_what_the_file_leaves_open_is_as_llmforge_documents_it(
    modules: SimpleNamespace, settings: Callable[..., Any]
) -> None:
    read = settings(padding=None, num_epochs=None, context_length=None, liger_kernel=None)
    assert (read.task, read.gradient_checkpointing, read.lr_scheduler_type, read.num_warmup_steps) == (
        "causal_lm",
        True,
        "cosine",
        10,
    )
    assert (read.padding, read.gradient_accumulation_steps, read.num_epochs, read.min_update_steps) == (
        "longest",
        1,
        None,
        100,
    )
    assert (read.context_length, read.liger, read.flash_attention_2, read.learning_rate) == (None, None, False, 1e-4)
    assert settings(no_gradient_checkpoint=True).gradient_checkpointing is False
    # "auto" is what the LLMForge file says.
    filled = read.deepspeed.content
    assert (filled["train_micro_batch_size_per_gpu"], filled["train_batch_size"], filled["gradient_clipping"]) == (
        2,
        4,
        1,
    )


@pytest.mark.parametrize(
    ("said", "cross_entropy", "fused"),
    [
        ({}, False, True),  # Liger takes one of the two
        ({"rope": True}, False, True),
        ({"cross_entropy": True}, True, False),
        ({"fused_linear_cross_entropy": False}, True, False),
        ({"cross_entropy": False, "fused_linear_cross_entropy": False}, False, False),
    ],
)
def test_liger_runs_every_kernel_but_one_of_the_two_cross_entropies(
    modules: SimpleNamespace, settings: Callable[..., Any], said: dict[str, bool], cross_entropy: bool, fused: bool
) -> None:
    read = settings(lora_config=None, liger_kernel={"enabled": True, "kwargs": said})
    assert read.liger == {
        "rope": True,
        "rms_norm": True,
        "swiglu": True,
        "cross_entropy": cross_entropy,
        "fused_linear_cross_entropy": fused,
    }


LORA = {"r": 8, "target_modules": ["q_proj", "lm_head"]}
FUSED = {"enabled": True, "kwargs": {"fused_linear_cross_entropy": True}}


@pytest.mark.parametrize(
    ("changed", "field", "expected"),
    [
        ({"contxt_length": 64}, "contxt_length", "such as context_length"),
        ({"max_steps": 3}, "max_steps", "a known field"),
        ({"num_devices": "two"}, "num_devices", "a whole number, at least 1"),
        ({"num_devices": True}, "num_devices", "a whole number, at least 1"),
        ({"num_devices": None}, "num_devices", "a whole number, at least 1"),
        ({"context_length": 0}, "context_length", "a whole number, at least 2"),
        ({"train_batch_size_per_device": None}, "train_batch_size_per_device", "a whole number"),
        ({"learning_rate": "fast"}, "learning_rate", "a number above 0"),
        ({"padding": "maxlength"}, "padding", "longest or max_length"),
        ({"task": "preference_tuning"}, "task", "causal_lm or instruction_tuning"),
        ({"flash_attention_2": "yes, please"}, "flash_attention_2", "true or false"),
        ({"valid_path": "valid.jsonl"}, "valid_path", "nothing is evaluated"),
        ({"preference_tuning_config": {"beta": 0.1}}, "preference_tuning_config", "causal_lm"),
        ({"classifier_config": {"label_tokens": ["a"]}}, "classifier_config", "causal_lm"),
        ({"logger": {"provider": "wandb"}}, "logger", "nothing is logged"),
        ({"generation_config": {"prompt_format": {}}}, "generation_config", "chat template"),
        ({"initial_base_model_ckpt_path": "x"}, "initial_base_model_ckpt_path", "model_id"),
        ({"initial_adapter_model_ckpt_path": "x"}, "initial_adapter_model_ckpt_path", "base model"),
        ({"forward_checkpoint_config": {}}, "forward_checkpoint_config", "nothing is saved"),
        ({"train_path": "s3://bucket/train.jsonl"}, "train_path", "a path on this machine"),
        ({"model_id": "./nowhere"}, "model_id", "an existing folder"),
        ({"worker_resources": "many"}, "worker_resources", "resources"),
        (
            {"gradient_checkpointing": True, "no_gradient_checkpoint": True},
            "no_gradient_checkpoint",
            "to be left out beside",
        ),
        ({"lora_config": {**LORA, "lora_alhpa": 16}}, "lora_config.lora_alhpa", "lora_config.lora_alpha"),
        ({"lora_config": {**LORA, "r": 0}}, "lora_config.r", "at least 1"),
        ({"lora_config": {**LORA, "task_type": "SEQ_CLS"}}, "lora_config.task_type", "CAUSAL_LM"),
        ({"lora_config": {**LORA, "lora_dropout": 1}}, "lora_config.lora_dropout", "from 0"),
        ({"lora_config": "yes"}, "lora_config", "fields"),
        ({"liger_kernel": {"enabled": True, "kwargs": {"ropee": True}}}, "liger_kernel.kwargs.ropee", "kwargs.rope"),
        ({"liger_kernel": FUSED}, "liger_kernel.kwargs.fused_linear_cross_entropy", "false with LoRA on lm_head"),
        (
            {"liger_kernel": {"enabled": True, "kwargs": {**FUSED["kwargs"], "cross_entropy": True}}},
            "liger_kernel.kwargs.fused_linear_cross_entropy",
            "one of the two",
        ),
        ({"deepspeed": {"confg_path": "zero_2.json"}}, "deepspeed.confg_path", "deepspeed.config_path"),
        ({"deepspeed": {}}, "deepspeed.config_path", "the path of a DeepSpeed JSON file"),
        ({"deepspeed": {"config_path": "zero_4.json"}}, "deepspeed.config_path", "a file that can be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_a_wrong_field_is_named_with_what_would_be_right(
    modules: SimpleNamespace, settings: Callable[..., Any], changed: dict[str, Any], field: str, expected: str
) -> None:
    with pytest.raises(modules.FileError) as error:
        settings(**changed)
    assert error.value.field == field and expected in error.value.expected
    assert len(error.value.screen("llmforge.yaml").splitlines()) == 4


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"fp16": {"enabled": True}}, "fp16.enabled"),
        ({"bf16": {"enabled": "yes"}}, "bf16.enabled"),
        ({"bf16": {"enabled": False, "bf16_master_weights_and_grads": True}}, "bf16.bf16_master_weights_and_grads"),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu"),
        ({"gradient_accumulation_steps": 8}, "gradient_accumulation_steps"),
        ({"train_batch_size": 2}, "train_batch_size"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage"),
        ({"zero_optimization": 2}, "zero_optimization"),
        ({"optimizer": {"type": "AdamW"}}, "optimizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_a_deepspeed_file_that_contradicts_the_rest_is_refused(
    modules: SimpleNamespace, folder: Path, settings: Callable[..., Any], changed: dict[str, Any], named: str
) -> None:
    (folder / "zero_2.json").write_text(json.dumps({**json.loads((folder / "zero_2.json").read_text()), **changed}))
    with pytest.raises(modules.FileError, match=f"zero_2.json with {named}"):
        settings()


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("changed", "field", "expected"),
    [
        ({"contxt_length": 64}, "contxt_length", "such as context_length"),
        ({"lora_config": {**LORA, "target_modules": ["q_proj", "v_prjo"]}}, "lora_config.target_modules", "v_proj"),
        (
            {"liger_kernel": {"enabled": True}, "lora_config": None},
            "liger_kernel.enabled",
            "Liger's kernels need a GPU",
        ),
        ({"flash_attention_2": True}, "flash_attention_2", "FlashAttention's kernels need a GPU"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_the_program_ends_with_2_and_one_screen_before_any_rank_is_started(
    project: Path, finetune: Path, changed_file: Callable[..., Path], changed: dict[str, Any], field: str, expected: str
) -> None:
    changed_file(**changed)
    ran = subprocess.run(
        [sys.executable, str(finetune), "changed.yaml"],
        cwd=project,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    first, *lines = ran.stderr.splitlines()
    assert first == "finetune: changed.yaml can't be used"
    assert [line.split()[0] for line in lines] == ["field", "given", "expected"]
    assert lines[0].split()[1] == field and expected in lines[2]


def test_a_context_that_the_model_lacks_is_refused(
    modules: SimpleNamespace, project: Path, settings: Callable[..., Any]
) -> None:
    with pytest.raises(modules.FileError, match="at most 64, the positions this model has"):
        modules.model.read_config(settings(context_length=65))


def test_ranks_of_another_number_are_refused(folder: Path, finetune: Path, changed_file: Callable[..., Path]) -> None:
    started = {"RANK": "0", "WORLD_SIZE": "3"}
    ran = subprocess.run(
        [sys.executable, str(finetune), str(changed_file())],
        env={**os.environ, **started},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and "3, the number of ranks that were started" in ran.stderr
