"""Families with latent attention, shared experts and states, trained for real: what was counted is what was done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mfubench.measure.in_situ import IN_CHUNKS

TOKENS = 2 * 64
SMALL = (
    "hardware.peak_flops_per_second=1e12",  # to measure one takes seconds
    *("measurement=quick", "measurement.profile_flops=true", "measurement.warmup_steps=3", "batch_size=2"),
    *("sequence_length=64", "tracking=none", "hydra.run.dir=run"),
)
SIZES = (
    *("model.architecture.hidden_size=64", "model.architecture.intermediate_size=160"),
    *("model.architecture.num_attention_heads=4",),
)


def trained(folder: Path, *architecture: str) -> dict[str, Any]:
    """The result of a short full fine-tune of a small model."""
    command = [sys.executable, "-m", "mfubench", *SMALL, *SIZES, *architecture]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run" / "result.json").read_text())


def test_latent_attention_and_shared_experts_do_in_the_process_what_was_counted(tmp_path: Path) -> None:
    result = trained(
        tmp_path,
        "model.architecture.model_type=deepseek_v2",
        "model.architecture.num_hidden_layers=3",
        "model.architecture.num_key_value_heads=4",
        "+model.architecture={q_lora_rank: 24, kv_lora_rank: 16, qk_nope_head_dim: 16, qk_rope_head_dim: 8, "
        "v_head_dim: 16, n_routed_experts: 8, n_shared_experts: 2, num_experts_per_tok: 2, moe_intermediate_size: 32, "
        "first_k_dense_replace: 1, n_group: 1, topk_group: 1}",
    )
    latent = 64 * 24 + 24 * 4 * (16 + 8) + 64 * (16 + 8) + 16 * 4 * (16 + 16) + 4 * 16 * 64
    experts = 64 * 8 + (2 + 2) * 3 * 64 * 32
    weights = 3 * latent + 3 * 64 * 160 + 2 * experts + 64 * 8192
    pairs = 2 * 64**2
    expected = 6 * weights * TOKENS + 3 * 6 * 4 * (24 + 16) * pairs
    assert result["status"] == "ok" and result["flops"]["uncounted"] == {}
    assert result["flops"]["model_flops"] == expected
    assert result["in_situ"]["flops"] == expected  # channels of keys and values differ: the CPU has no fused kernel


@pytest.mark.slow
def test_states_are_counted_by_formula_and_all_else_is_what_the_process_did(tmp_path: Path) -> None:
    result = trained(
        tmp_path,
        "model.architecture.model_type=bamba",
        "model.architecture.num_hidden_layers=4",
        "+model.architecture={attn_layer_indices: [2], mamba_n_heads: 8, mamba_d_head: 16, mamba_d_state: 16, "
        "mamba_chunk_size: 16}",
    )
    mixer = 64 * (2 * 128 + 2 * 16 + 8) + 128 * 64
    layers = 3 * mixer + 64 * 16 * (4 + 2 + 2 + 4) + 4 * 3 * 64 * 160
    weights, convolutions, state = layers + 64 * 8192, 3 * 4 * (128 + 2 * 16), 3 * 4 * 128 * 16
    pairs = 2 * 64**2
    expected = (6 * (weights + convolutions) + 3 * state) * TOKENS + 6 * 4 * (16 + 16) * pairs
    assert result["status"] == "ok" and result["flops"]["uncounted"] == {}
    assert result["flops"]["model_flops"] == expected
    done = result["in_situ"]["by_operator"]
    assert done["aten::mm"] == 6 * weights * TOKENS
    assert done["aten::convolution"] + done["aten::convolution_backward"] == 6 * convolutions * TOKENS
    assert result["in_situ"]["explanation"] == IN_CHUNKS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("lfm2", "full_attn_idxs: [2]"),
        (
            "qwen3_next",
            "linear_num_key_heads: 2, linear_num_value_heads: 4, linear_key_head_dim: 16, "
            "linear_value_head_dim: 16, head_dim: 16, num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 32, "
            "shared_expert_intermediate_size: 32",
        ),
    ],
)
def test_further_families_train(tmp_path: Path, model_type: str, settings: str) -> None:
    result = trained(
        tmp_path,
        f"model.architecture.model_type={model_type}",
        f"+model.architecture={{{settings}}}",
    )
    apart, why = result["in_situ"]["apart"], result["in_situ"]["explanation"]
    assert result["status"] == "ok" and (abs(apart) < 0.01 or why == IN_CHUNKS)
