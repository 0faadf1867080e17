"""Published models whose matrices, pairs and states are added up here, from config.json, and nowhere else.

A step is 6 FLOPs per weight and token, 3 times the forward FLOPs of a state per token, and 6 x heads x (channels of a key +
channels of a value) per pair of positions.
"""

from __future__ import annotations

from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops.count import count
from mfubench.flops.counts import FlopCount

FULL = Mode(name="full")
LENGTH = 4096

NEMOTRON_PATTERN = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"


def step(weights: int, *, attention: int = 0, state: int = 0) -> int:
    """FLOPs of one sequence; `attention`: heads x channels of a key and a value, of all layers together."""
    return LENGTH * (6 * weights + 3 * state) + 6 * attention * LENGTH**2


def mamba_2(h: int, heads: int, channels: int, state: int, groups: int) -> int:
    """Weights of a mixer: in_proj, a convolution of width 4, out_proj."""
    inner, both = heads * channels, 2 * groups * state
    return h * (2 * inner + both + heads) + 4 * (inner + both) + inner * h


def mamba_1(h: int, inner: int, rank: int, state: int) -> int:
    """Weights of a mixer: in_proj, a convolution of width 4, x_proj, dt_proj, out_proj."""
    return h * 2 * inner + 4 * inner + inner * (rank + 2 * state) + rank * inner + inner * h


def grouped(h: int, heads: int, kv_heads: int, channels: int) -> int:
    """Weights of q, k, v and o."""
    return 2 * h * channels * (heads + kv_heads)


def latent(h: int, heads: int, rank: int, nope: int = 128, rope: int = 64, value: int = 128) -> int:
    """Weights of latent attention whose queries aren't compressed."""
    return h * heads * (nope + rope) + h * (rank + rope) + rank * heads * (nope + value) + heads * value * h


def nemotron_h_8b() -> int:
    mixers, attentions, mlps = (NEMOTRON_PATTERN.count(kind) for kind in "M*-")
    assert (mixers, attentions, mlps) == (24, 4, 24)
    layers = 24 * mamba_2(4096, 128, 64, 128, 8) + 4 * grouped(4096, 32, 8, 128) + 24 * 2 * 4096 * 21504
    return step(layers + 4096 * 131072, attention=4 * 32 * 256, state=24 * 4 * 128 * 64 * 128)


def jamba_mini() -> int:
    mlp = 3 * 4096 * 14336
    layers = 28 * mamba_1(4096, 8192, 256, 16) + 4 * grouped(4096, 32, 8, 128) + 16 * mlp + 16 * (4096 * 16 + 2 * mlp)
    return step(layers + 4096 * 65536, attention=4 * 32 * 256, state=28 * 4 * 8192 * 16)


def codestral_mamba() -> int:
    return step(64 * mamba_2(4096, 128, 64, 128, 8) + 4096 * 32768, state=64 * 4 * 8192 * 128)


def granite_4_small() -> int:
    mixers = 36 * mamba_2(4096, 128, 64, 128, 1) + 4 * grouped(4096, 32, 8, 128)
    experts = 40 * (4096 * 72 + 10 * 3 * 4096 * 768 + 3 * 4096 * 1536)
    return step(mixers + experts + 4096 * 100352, attention=4 * 32 * 256, state=36 * 4 * 8192 * 128)


def falcon_h1_half() -> int:
    layer = mamba_2(1024, 24, 64, 128, 1) + grouped(1024, 8, 2, 64) + 3 * 1024 * 2048
    return step(36 * layer + 1024 * 32784, attention=36 * 8 * 128, state=36 * 4 * 1536 * 128)


def lfm2_1_2b() -> int:
    convolution = 2048 * 3 * 2048 + 3 * 2048 + 2048 * 2048
    layers = 10 * convolution + 6 * grouped(2048, 32, 8, 64) + 16 * 3 * 2048 * 8192  # 2/3 of 12288
    return step(layers + 2048 * 65536, attention=6 * 32 * 128)


def deepseek_v2_lite() -> int:
    experts = 26 * (2048 * 64 + (6 + 2) * 3 * 2048 * 1408)
    layers = 27 * latent(2048, 16, 512) + 3 * 2048 * 10944 + experts
    return step(layers + 2048 * 102400, attention=27 * 16 * (192 + 128))


def glm_4_5_air() -> int:
    experts = 45 * (4096 * 128 + (8 + 1) * 3 * 4096 * 1408)
    layers = 46 * grouped(4096, 96, 8, 128) + 3 * 4096 * 10944 + experts
    return step(layers + 4096 * 151552, attention=46 * 96 * 256)


def kimi_linear_48b() -> int:
    h, wide = 2304, 32 * 128
    delta = h * 3 * wide + 4 * 3 * wide + 2 * (h * 128 + 128 * wide) + h * 32 + wide * h  # two low-rank gates
    experts = 26 * (h * 256 + (8 + 1) * 3 * h * 1024)
    layers = 20 * delta + 7 * latent(h, 32, 512) + 3 * h * 9216 + experts
    return step(layers + h * 163840, attention=7 * 32 * (192 + 128), state=20 * 6 * 32 * 128 * 128)


def minimax_text() -> int:
    h, wide = 6144, 64 * 128
    lightning = h * 3 * wide + h * wide + wide * h
    layers = 70 * lightning + 10 * grouped(h, 64, 8, 128) + 80 * (h * 32 + 2 * 3 * h * 9216)
    return step(layers + h * 200064, attention=10 * 64 * 256, state=70 * 4 * 64 * 128 * 128)


def zamba_7b() -> int:
    h, shared = 3712, [2, *range(3 + 4, 76, 6)]  # the shared block stands in front of these layers
    assert len(shared) == 13
    block = 3 * 7424 * 7424 + 7424 * h + 3 * h * 14848
    layers = 76 * mamba_1(h, 7424, 232, 16) + 13 * (block + h * h)
    return step(layers + h * 32000, attention=13 * 16 * 2 * 464, state=76 * 4 * 7424 * 16)


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Nemotron-H-8B": (
        {"model_type": "nemotron_h", "num_hidden_layers": 52, "hybrid_override_pattern": NEMOTRON_PATTERN},
        nemotron_h_8b(),
    ),
    "Jamba-1.5-Mini": ({"model_type": "jamba"}, jamba_mini()),
    "Codestral Mamba": ({"model_type": "mamba2"}, codestral_mamba()),
    "Granite-4.0-H-Small": (
        {
            **{"model_type": "granitemoehybrid", "hidden_size": 4096, "num_hidden_layers": 40, "vocab_size": 100352},
            **{"layer_types": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)]},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "mamba_n_heads": 128, "mamba_d_head": 64},
            **{"mamba_d_state": 128, "num_local_experts": 72, "num_experts_per_tok": 10, "intermediate_size": 768},
            **{"shared_intermediate_size": 1536, "tie_word_embeddings": True, "max_position_embeddings": 131072},
        },
        granite_4_small(),
    ),
    "Falcon-H1-0.5B": (
        {
            **{"model_type": "falcon_h1", "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 36},
            **{"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 32784},
            **{"mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128},
            **{"mamba_n_groups": 1, "time_step_min": 0.001},
        },
        falcon_h1_half(),
    ),
    "LFM2-1.2B": (
        {
            **{"model_type": "lfm2", "hidden_size": 2048, "block_ff_dim": 12288, "num_hidden_layers": 16},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "full_attn_idxs": [2, 5, 8, 10, 12, 14]},
        },
        lfm2_1_2b(),
    ),
    "DeepSeek-V2-Lite": (
        {
            **{"model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16},
            **{"num_key_value_heads": 16, "q_lora_rank": None, "intermediate_size": 10944, "n_routed_experts": 64},
            **{"moe_intermediate_size": 1408, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
            **{"n_group": 1, "topk_group": 1, "max_position_embeddings": 163840},
        },
        deepseek_v2_lite(),
    ),
    "GLM-4.5-Air": ({"model_type": "glm4_moe", "head_dim": 128, "num_nextn_predict_layers": 1}, glm_4_5_air()),
    "Kimi-Linear-48B-A3B": (
        {
            "model_type": "kimi_linear",
            "linear_attn_config": {
                **{"full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "num_heads": 32, "head_dim": 128},
                **{"kda_layers": [i for i in range(1, 27) if i % 4], "short_conv_kernel_size": 4},
            },
        },
        kimi_linear_48b(),
    ),
    "MiniMax-Text-01": (
        {
            **{"model_type": "minimax", "hidden_size": 6144, "intermediate_size": 9216, "num_hidden_layers": 80},
            **{"num_attention_heads": 64, "head_dim": 128, "num_local_experts": 32, "vocab_size": 200064},
            **{"layer_types": ["full_attention" if i % 8 == 7 else "linear_attention" for i in range(80)]},
        },
        minimax_text(),
    ),
    "Zamba-7B": ({"model_type": "zamba"}, zamba_7b()),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_costs_what_its_config_adds_up_to(name: str) -> None:
    architecture, expected = PUBLISHED[name]
    counted = counted_step(architecture)
    assert counted.model_flops == pytest.approx(expected, rel=1e-6)
    assert counted.uncounted == {}


def test_a_mixture_with_a_shared_expert_and_every_other_active_is_a_wide_mlp_and_a_router() -> None:
    sizes = {"model_type": "glm4_moe", "num_hidden_layers": 4, "n_routed_experts": 8, "num_experts_per_tok": 8}
    mixture = counted_step({**sizes, "moe_intermediate_size": 128, "first_k_dense_replace": 0})
    dense = counted_step({**sizes, "intermediate_size": 9 * 128, "first_k_dense_replace": 4})
    assert mixture.model_flops - dense.model_flops == 6 * LENGTH * 4 * 4096 * 8


def test_a_window_as_wide_as_the_sequence_is_none() -> None:
    sizes = {"model_type": "gemma4_text", "num_hidden_layers": 6, "head_dim": 512, "global_head_dim": 512}
    windowed = counted_step({**sizes, "sliding_window": LENGTH})
    full = counted_step({**sizes, "layer_types": ["full_attention"] * 6})
    narrow = counted_step({**sizes, "sliding_window": 512})
    assert windowed.model_flops_causal == full.model_flops_causal > narrow.model_flops_causal
    assert windowed.model_flops == full.model_flops == narrow.model_flops


@pytest.mark.parametrize("model_type", ["mamba2", "minimax", "kimi_linear", "qwen3_next"])
def test_layers_that_all_keep_a_state_cost_in_proportion_to_the_sequence(model_type: str) -> None:
    layers = {} if model_type == "mamba2" else {"layer_types": ["linear_attention"] * 4}
    architecture = {"model_type": model_type, "num_hidden_layers": 4, **layers}
    short, long = (counted_step(architecture, length) for length in (512, 4096))
    assert long.model_flops == 8 * short.model_flops
    assert long.model_flops_causal == long.model_flops


def counted_step(architecture: dict[str, Any], length: int = LENGTH) -> FlopCount:
    """The count of one sequence in full training, with eager attention."""
    return count(architecture, FULL, recomputation="none", attention="eager", batch_size=1, sequence_length=length)
