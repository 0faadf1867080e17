"""Where hardware FLOPs are said to be spent: by phase, operator and module, all of them, whatever the shape."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.config.validate import ATTENTIONS
from mfubench.flops.breakdown import OTHER_MODULES, by_module, by_operator, by_phase, group_of, hardware_flops
from mfubench.flops.count import EXPERTS, profile

KINDS = ("none", "reentrant", "non_reentrant")


def test_lora_spends_on_its_matrices_what_their_sizes_say(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    found = hardware_flops(profile(small, modes["lora2"], recomputation="none", attention="sdpa"), 3, 40)
    # r=8 beside q (36 -> 48) and v (36 -> 16) of two blocks: forward and the weights' gradients; between the two
    # matrices the gradient of what goes in, but into the first block's A, where nothing before it is trained
    a, b = 2 * 8 * 36 * 2, 8 * (48 + 16) * 2
    into = a // 2 + b
    assert by_module(found)["LoRA"] == 2 * 120 * (2 * (a + b) + into)
    # frozen projections: forward, and the gradient of what goes in: of o in both blocks, of q, k and v in the second
    wide, narrow = 36 * 48, 36 * 16
    assert by_module(found)["attention projections"] == 2 * 120 * (2 * (2 * wide + 2 * narrow) + 3 * wide + 2 * narrow)


@pytest.mark.parametrize("mode", ["full", "lora2"])
@pytest.mark.parametrize("recomputation", KINDS)
@pytest.mark.parametrize(
    "architecture",
    [
        {},
        {"model_type": "qwen2"},
        {"model_type": "gemma2", "hidden_size": 48, "tie_word_embeddings": True, "attention": "eager"},
        {"model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4},
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20},
    ],
    ids=["llama", "qwen2", "gemma2", "mixtral", "qwen3_moe"],
)
def test_every_flop_has_its_place(
    small: dict[str, Any], modes: dict[str, Mode], architecture: dict[str, Any], recomputation: str, mode: str
) -> None:
    attention = architecture.get("attention", "sdpa")
    model = {name: value for name, value in {**small, **architecture}.items() if name != "attention"}
    counted_once = profile(model, modes[mode], recomputation=recomputation, attention=attention)
    found = hardware_flops(counted_once, 3, 40)
    total = counted_once.of(3, 40).hardware_flops
    for of in (by_phase, by_operator, by_module):
        assert sum(of(found).values()) == total
    assert OTHER_MODULES not in by_module(found)
    assert (by_phase(found)["recomputation"] > 0) == (recomputation != "none")
    assert min(found.values()) >= 0


@pytest.mark.sample(5)
@pytest.mark.parametrize("recomputation", KINDS)
@pytest.mark.parametrize("mode", ["full", "lora2"])
@pytest.mark.parametrize(
    "mixed",
    [
        {"model_type": "gemma2", "hidden_size": 48, "sliding_window": 16},  # every second block looks through a window
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [0]},
    ],
    ids=["gemma2", "first block dense"],
)
def test_repeated_blocks_spend_what_a_trace_of_all_of_them_finds(
    small: dict[str, Any],
    modes: dict[str, Mode],
    monkeypatch: pytest.MonkeyPatch,
    mixed: dict[str, Any],
    mode: str,
    recomputation: str,
) -> None:
    deep = {**small, **mixed, "num_hidden_layers": 6}
    quick = profile(deep, modes[mode], recomputation=recomputation, attention="eager")
    monkeypatch.setattr(sys.modules["mfubench.flops.count"], "repetition", lambda model: None)
    whole = profile(deep, modes[mode], recomputation=recomputation, attention="eager")
    assert quick.of(3, 40) == whole.of(3, 40)
    assert hardware_flops(quick, 3, 40) == hardware_flops(whole, 3, 40)


def test_experts_and_their_router_are_told_apart(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    assert EXPERTS == "batched_mm"
    sizes = {"model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2}
    found = by_module(
        hardware_flops(profile({**small, **sizes}, modes["full"], recomputation="none", attention="sdpa"), 1, 10)
    )
    assert found["experts"] == 6 * 10 * 2 * 2 * 3 * 48 * 112
    assert found["router"] == 6 * 10 * 2 * 4 * 48
    assert "MLP" not in found


@pytest.mark.parametrize(
    ("module", "group"),
    [
        ("model.layers.3.self_attn.q_proj", "attention projections"),
        ("model.layers.3.self_attn.q_proj.base_layer", "attention projections"),
        ("model.layers.3.self_attn.q_proj.lora_A.default", "LoRA"),
        ("base_model.model.lm_head.lora_B.default", "LoRA of lm_head"),
        ("base_model.model.lm_head.base_layer", "lm_head"),
        ("model.layers.3.mlp.gate_proj", "MLP"),
        ("model.layers.3.mlp.gate", "router"),
        ("model.layers.3.mlp.experts.act_fn", "experts"),
        ("model.layers.3.mlp.shared_expert.gate_proj", "experts"),
        ("model.embed_tokens", "embedding"),
        ("model.rotary_emb", OTHER_MODULES),
    ],
)
def test_a_module_is_grouped_by_its_name(module: str, group: str) -> None:
    assert group_of(module) == group


@pytest.mark.parametrize(
    "shape", [{"documents": (10, 20)}, {"trained_tokens": 11}, {"documents": (1,) * 30, "trained_tokens": 1}]
)
def test_every_flop_has_its_place_whatever_is_packed_or_trained(
    small: dict[str, Any], modes: dict[str, Mode], shape: dict[str, Any]
) -> None:
    for attention in ATTENTIONS:
        found = profile(small, modes["lora8"], recomputation="reentrant", attention=attention)
        places = hardware_flops(found, 2, 30, **shape)
        for of in (by_phase, by_operator, by_module):
            assert sum(of(places).values()) == found.of(2, 30, **shape).hardware_flops
