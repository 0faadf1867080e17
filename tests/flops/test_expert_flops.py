"""Mixtures of experts and Gemma 2: against closed forms, and against PyTorch's counter over real tensors."""

from __future__ import annotations

from typing import Any

import pytest
from architectures import architecture_of

from mfubench.config import Mode, WrongCombination
from mfubench.flops.count import profile
from mfubench.flops.meta_model import bare_model, isolated
from mfubench.flops.trace import trace
from mfubench.workload.architecture import config_of

LENGTH = 2048
POSITIONS = 2 * LENGTH


def attention_weights(a: dict[str, Any]) -> int:
    """Weights of a block's four projections."""
    head_dim = a.get("head_dim") or a["hidden_size"] // a["num_attention_heads"]
    return 2 * a["hidden_size"] * head_dim * (a["num_attention_heads"] + a["num_key_value_heads"])


def attention_square(a: dict[str, Any]) -> int:
    """FLOPs of scores and their product with the values over the full square, forward, in all blocks."""
    head_dim = a.get("head_dim") or a["hidden_size"] // a["num_attention_heads"]
    return 4 * POSITIONS * LENGTH * a["num_attention_heads"] * head_dim * a["num_hidden_layers"]


@pytest.mark.parametrize(
    ("model", "experts", "wide"), [("mixtral-8x7b", "num_local_experts", 14336), ("qwen3-30b-a3b", "num_experts", 768)]
)
def test_a_token_passes_through_the_router_and_its_own_experts_only(
    modes: dict[str, Mode], model: str, experts: str, wide: int
) -> None:
    a = architecture_of(model)
    expert = 3 * a["hidden_size"] * wide
    block = attention_weights(a) + a[experts] * a["hidden_size"] + a["num_experts_per_tok"] * expert
    active = a["num_hidden_layers"] * block + a["vocab_size"] * a["hidden_size"]
    found = profile(a, modes["full"], recomputation="none", attention="sdpa")
    assert found.of(2, LENGTH).model_flops == 6 * POSITIONS * active + 3 * attention_square(a)
    assert found.uncounted == {}
    everything = active + a["num_hidden_layers"] * (a[experts] - a["num_experts_per_tok"]) * expert
    assert found.parameters == pytest.approx(everything + a["vocab_size"] * a["hidden_size"], rel=1e-4)  # and the norms


def test_lora_beside_the_attention_of_a_mixture_needs_no_gradient_of_the_experts_weights() -> None:
    a = architecture_of("mixtral-8x7b")
    mode = Mode(name="lora", rank=8, target_modules=["q_proj", "v_proj"])
    hidden, blocks, keys = a["hidden_size"], a["num_hidden_layers"], 1024
    frozen = hidden * keys + hidden * hidden + 8 * hidden + 2 * 3 * hidden * 14336  # k, o, router, two experts
    # Frozen: forward and input's gradient; the first block's q, k and v pass none on. Adapters: 6 FLOPs a weight.
    frozen_flops = 4 * blocks * (frozen + hidden * hidden + hidden * keys) + 4 * hidden * a["vocab_size"]
    first = 2 * (hidden * hidden + 2 * hidden * keys) + 2 * 2 * 8 * hidden
    adapters = 6 * blocks * 8 * (3 * hidden + keys)
    found = profile(a, mode, recomputation="none", attention="sdpa")
    assert found.trainable_parameters == blocks * 8 * (3 * hidden + keys)
    assert found.of(2, LENGTH).model_flops == POSITIONS * (frozen_flops - first + adapters) + 3 * attention_square(a)


def test_a_grouped_product_does_the_work_of_one_product_per_token_and_expert(small: dict[str, Any]) -> None:
    mixture = {**small, "model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2}
    with isolated():
        grouped, batched = (
            trace(bare_model(config_of(mixture), experts=kind), batch_size=1, sequence_length=16)
            for kind in ("grouped_mm", "batched_mm")
        )
    assert grouped.uncounted == batched.uncounted == {}
    assert grouped.product_flops == batched.product_flops
    # gate-and-up and down, of two experts, in two blocks; backward twice as much
    assert sum(n for place, n in grouped.products.items() if place[1] == "_grouped_mm") == 6 * 16 * 2 * 2 * 3 * 48 * 112


def test_the_experts_of_a_mixture_are_no_linear_layers(modes: dict[str, Mode]) -> None:
    for model in ("mixtral-8x7b", "qwen3-30b-a3b"):
        with pytest.raises(WrongCombination, match="gate_proj, up_proj, down_proj match no linear layer") as error:
            profile(architecture_of(model), modes["lora7"], recomputation="none", attention="sdpa")
        assert "some of this model's linear layers: q_proj, k_proj, v_proj, o_proj, lm_head)" in str(error.value)
        assert error.value.instead == "mode.target_modules=[q_proj,k_proj,v_proj,o_proj]"


def test_gemma_2_caps_and_gates_without_products_and_sees_a_window_in_every_other_block(modes: dict[str, Mode]) -> None:
    a = architecture_of("gemma-2-9b")
    block = attention_weights(a) + 3 * a["hidden_size"] * a["intermediate_size"]
    active = 42 * block + 256000 * 3584
    found = profile(a, modes["full"], recomputation="none", attention="flash_attention_2")
    short = found.of(2, LENGTH)
    assert short.model_flops == 6 * POSITIONS * active + 3 * attention_square(a)
    # Of 8192 positions the last 4096 lose one key more each in 21 of 42 blocks: 4096 x 4097 / 2 pairs.
    everything, window = 8192 * 8193 // 2, 8192 * 8193 // 2 - 4096 * 4097 // 2
    forward = 4 * 16 * 256 * 21 * (everything + window)
    long = found.of(1, 8192)
    assert long.model_flops_causal == 6 * 8192 * active + 3 * forward
    assert long.hardware_flops_causal == 6 * 8192 * active + 7 * forward // 2
    eager = profile(a, modes["full"], recomputation="none", attention="eager").of(1, 8192)
    assert eager.model_flops_causal == long.model_flops_causal
    assert eager.hardware_flops_causal == eager.hardware_flops == eager.model_flops


@pytest.mark.sample(5)
@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
@pytest.mark.parametrize("mode", ["full", "lora2"])
@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mixtral", "num_local_experts": 4},
        {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 16},
        {"model_type": "gemma2", "sliding_window": 10, "pad_token_id": 0},
    ],
    ids=lambda change: change["model_type"],
)
def test_eager_products_are_those_that_pytorch_counts_on_real_tensors(
    small: dict[str, Any], modes: dict[str, Mode], change: dict[str, Any], mode: str, recomputation: str
) -> None:
    """Experts one by one, as they are computed without a grouped product: the router shares the real tokens out."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = {**small, "hidden_size": 48, "num_hidden_layers": 4, **change}
    found = profile(architecture, modes[mode], recomputation=recomputation, attention="eager")
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**architecture), attn_implementation="eager", experts_implementation="eager"
    )
    if mode != "full":
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"]))
    if recomputation != "none":
        model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
        model.enable_input_require_grads()
    ids = torch.randint(1, 300, (3, 20))
    with FlopCounterMode(display=False) as counter:
        model.train()(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert found.of(3, 20).hardware_flops == counter.get_total_flops()
