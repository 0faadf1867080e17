"""Families with recurrences, latent or chunked attention and experts of their own kind: figures worked out by hand.

By their papers and published configurations; LoRA without dropout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops.attention import AttentionCall, visible_pairs
from mfubench.flops.count import count, profile

LLAMA_4_SCOUT = {"model_type": "llama4_text", "num_hidden_layers": 48, "num_local_experts": 16}
LLAMA_4_MAVERICK = {"model_type": "llama4_text", "num_local_experts": 128, "interleave_moe_layer_step": 2}
BAMBA = {"model_type": "bamba", "vocab_size": 128256, "mamba_d_state": 128, "attn_layer_indices": [9, 18, 27]}
FALCON_H1 = {
    **{"model_type": "falcon_h1", "hidden_size": 2048, "intermediate_size": 4608, "num_hidden_layers": 24},
    **{"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 65537},
    **{"mamba_d_ssm": 3072, "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 256},
}
FALCON_MAMBA = {
    **{"model_type": "falcon_mamba", "hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 64},
    **{"state_size": 16, "time_step_rank": 256, "vocab_size": 65024, "tie_word_embeddings": False},
}
LFM2 = {
    **{"model_type": "lfm2", "hidden_size": 1024, "block_ff_dim": 6656, "num_hidden_layers": 16, "vocab_size": 65536},
    **{"num_attention_heads": 16, "num_key_value_heads": 8, "full_attn_idxs": [2, 5, 8, 10, 12, 14]},
}
GRANITE_4 = {
    **{"model_type": "granitemoehybrid", "hidden_size": 1536, "num_hidden_layers": 40, "vocab_size": 100352},
    **{"layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)], "num_attention_heads": 12},
    **{
        "num_key_value_heads": 4,
        "mamba_n_heads": 48,
        "mamba_d_head": 64,
        "mamba_d_state": 128,
        "num_local_experts": 64,
    },
    **{
        "num_experts_per_tok": 6,
        "intermediate_size": 512,
        "shared_intermediate_size": 1024,
        "tie_word_embeddings": True,
    },
    **{"max_position_embeddings": 131072},
}
GEMMA_3_4B = {
    **{"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
    **{
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 1024,
        "vocab_size": 262208,
    },
}
GEMMA_3_1B = {
    **{"model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26},
    **{"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512},
    **{"sliding_window_pattern": 6, "vocab_size": 262144},
}
GEMMA_3N = {
    "model_type": "gemma3n_text",
    "num_hidden_layers": 30,
    "intermediate_size": 8192,
    "num_kv_shared_layers": 10,
}
GEMMA_4_31B = {
    **{"model_type": "gemma4_text", "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 60},
    **{"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 256, "global_head_dim": 512},
    **{"num_global_key_value_heads": 4, "attention_k_eq_v": True, "sliding_window": 1024},
    **{"hidden_size_per_layer_input": 0, "eos_token_id": [1, 106]},
}
NEMOTRON_NANO_9B = {
    **{"model_type": "nemotron_h", "hidden_size": 4480, "intermediate_size": 15680, "num_hidden_layers": 56},
    **{"num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 128},
    **{"mamba_head_dim": 80, "max_position_embeddings": 131072},
    **{"hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"},
}
FULL = Mode(name="full")
SEVEN = Mode(
    name="lora", rank=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
)
GRANITE_LORA = replace(
    SEVEN, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "input_linear", "output_linear"]
)


@pytest.mark.parametrize(
    ("architecture", "mode", "shape", "model_flops", "causal"),
    [
        ({"model_type": "qwen3_next"}, FULL, (1, 4096), 98_865_046_880_256, 93_918_452_514_816),
        ({"model_type": "qwen3_5_text"}, SEVEN, (1, 4096), 136_866_380_644_352, 133_568_651_067_392),
        (BAMBA, FULL, (2, 2048), 230_161_316_315_136, 229_543_143_014_400),
        (GRANITE_4, GRANITE_LORA, (1, 4096), 26_081_532_837_888, 25_463_208_542_208),
        (FALCON_H1, FULL, (2, 2048), 38_308_876_910_592, 37_072_530_309_120),
        (FALCON_MAMBA, FULL, (1, 2048), 86_174_223_826_944, 86_174_223_826_944),
        (LFM2, FULL, (4, 2048), 18_658_847_883_264, 18_040_674_582_528),
        (LLAMA_4_MAVERICK, FULL, (1, 4096), 446_373_266_718_720, 421_640_294_891_520),
        ({"model_type": "deepseek_v3"}, FULL, (1, 4096), 1_151_599_380_529_152, 1_025_873_440_407_552),
        ({"model_type": "gpt_oss"}, FULL, (1, 4096), 155_788_731_482_112, 133_982_098_292_736),
        (GEMMA_3_1B, FULL, (2, 4096), 59_860_032_946_176, 51_027_772_440_576),
        (GEMMA_3_4B, FULL, (1, 4096), 109_371_073_757_184, 98_999_344_300_032),
        (GEMMA_4_31B, FULL, (1, 4096), 869_833_956_655_104, 788_923_315_912_704),
        (NEMOTRON_NANO_9B, FULL, (1, 4096), 209_847_136_026_624, 207_786_055_041_024),
        (GEMMA_3N, FULL, (1, 2048), 32_861_763_796_992, 30_620_092_858_368),
        ({"model_type": "gpt2"}, FULL, (8, 1024), 6_999_559_372_800, 6_536_155_889_664),
        (
            {"model_type": "gpt2"},
            Mode(name="lora", rank=8, target_modules=["c_attn"]),
            (8, 1024),
            4_961_014_382_592,
            4_497_610_899_456,
        ),
    ],
    ids=lambda value: value.get("model_type") if isinstance(value, dict) else None,
)
def test_a_step_costs_what_its_matrices_attention_and_states_multiply(
    architecture: dict[str, Any], mode: Mode, shape: tuple[int, int], model_flops: int, causal: int
) -> None:
    counted = _count(architecture, *shape, mode=mode)
    assert counted.model_flops == pytest.approx(model_flops, rel=1e-6)
    assert counted.model_flops_causal == pytest.approx(causal, rel=1e-6)
    assert counted.uncounted == {}


def test_llama_4_needs_the_experts_that_a_token_chooses_and_executes_all() -> None:
    counted = _count(LLAMA_4_SCOUT, 1, 4096)
    assert counted.model_flops == pytest.approx(446.083356426240e12, rel=1e-6)
    assert counted.hardware_flops > 2_672e12


def test_llama_4_with_all_experts_chosen_needs_all_that_it_executes() -> None:
    counted = _count({**LLAMA_4_SCOUT, "num_experts_per_tok": 16}, 1, 512)
    assert counted.model_flops == counted.hardware_flops


def test_shorter_chunks_of_attention_leave_fewer_visible_pairs() -> None:
    whole, chunked = (_count({**LLAMA_4_SCOUT, "attention_chunk_size": size}, 1, 4096) for size in (8192, 256))
    assert (whole.model_flops_causal / 1e12, chunked.model_flops_causal / 1e12) == pytest.approx((421.35, 403.96), 2e-5)
    assert whole.model_flops == chunked.model_flops


def test_chunks_are_sequences_of_their_own_and_one_beyond_the_sequence_is_none() -> None:
    call = AttentionCall(heads=1, head_dim=1, value_dim=1, causal=True, window=None, chunk=4)
    assert visible_pairs(call, 10) == 10 + 10 + 3
    assert visible_pairs(replace(call, chunk=10), 10) == visible_pairs(replace(call, chunk=None), 10) == 55


def test_states_convolutions_and_weights_without_a_layer_are_a_group_of_their_own() -> None:
    model = {**FALCON_MAMBA, "num_hidden_layers": 3}
    counted = profile(model, FULL, recomputation="none", attention="eager")
    of_recurrences = {key: flops for key, flops in counted.needed_products.items() if key.endswith("/recurrence")}
    state, convolution, time_steps = 4 * 8192 * 16, 2 * 4 * 8192, 2 * 256 * 8192
    assert of_recurrences["forward/state/recurrence"] == 3 * (state + time_steps)
    assert of_recurrences["backward/state/recurrence"] == 2 * 3 * (state + time_steps)
    assert sum(of_recurrences.values()) == 3 * 3 * (state + convolution + time_steps)


def test_a_recurrence_is_linear_in_the_sequence_and_recomputed_with_its_block() -> None:
    model = {**FALCON_MAMBA, "num_hidden_layers": 4}
    once, long, again = _count(model, 1, 512), _count(model, 1, 5120), _count(model, 1, 512, recomputation="reentrant")
    assert long.model_flops == 10 * once.model_flops
    assert again.model_flops == once.model_flops
    head = 6 * 4096 * 65024 * 512
    assert again.hardware_flops - head == (once.hardware_flops - head) * 4 // 3


def _count(
    architecture: dict[str, Any], batch_size: int, length: int, mode: Mode = FULL, recomputation: str = "none"
) -> Any:
    return count(
        architecture,
        mode,
        recomputation=recomputation,
        attention="eager",
        batch_size=batch_size,
        sequence_length=length,
    )
