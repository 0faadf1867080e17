"""Counts of small models against a formula worked out by hand and against PyTorch's own counter over real tensors."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import pytest
from architectures import architecture_of

from mfubench.config import Mode
from mfubench.flops.count import count
from mfubench.flops.counts import FlopCount

BATCH, LENGTH, RANK = 3, 20, 8
POSITIONS = BATCH * LENGTH


def counted(
    architecture: dict[str, Any], mode: Mode, recomputation: str = "none", attention: str = "sdpa"
) -> FlopCount:
    return count(
        architecture,
        mode,
        recomputation=recomputation,
        attention=attention,
        batch_size=BATCH,
        sequence_length=LENGTH,
    )


def linear_layers(architecture: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers of one block."""
    hidden, wide = architecture["hidden_size"], architecture["intermediate_size"]
    queries = architecture["num_attention_heads"] * architecture["head_dim"]
    keys = architecture["num_key_value_heads"] * architecture["head_dim"]
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, wide),
        "up_proj": (hidden, wide),
        "down_proj": (wide, hidden),
    }


def product(inputs: int, outputs: int) -> int:
    return 2 * POSITIONS * inputs * outputs


def attention_forward(architecture: dict[str, Any], pairs: int) -> int:
    """Scores and their product with the values, in all blocks."""
    channels = architecture["num_attention_heads"] * architecture["head_dim"]
    return architecture["num_hidden_layers"] * 4 * BATCH * channels * pairs


def rope(architecture: dict[str, Any]) -> int:
    """transformers up to 5.17 multiplies positions by frequencies as matrices; later ones element by element."""
    return architecture["head_dim"] * LENGTH * BATCH


def full_by_hand(architecture: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Every product once forward and twice backward; recomputation repeats the blocks, non-reentrant less down_proj."""
    blocks = architecture["num_hidden_layers"]
    layers = linear_layers(architecture)
    block = sum(product(*shape) for shape in layers.values())
    products = 3 * (blocks * block + product(architecture["hidden_size"], architecture["vocab_size"]))
    square = attention_forward(architecture, LENGTH**2)
    causal = attention_forward(architecture, LENGTH * (LENGTH + 1) // 2)
    recomputed = {
        "none": (0, 0),
        "reentrant": (blocks * block, 1),
        "non_reentrant": (blocks * (block - product(*layers["down_proj"])), 1),
    }
    return {
        recomputation: {
            "model_flops": products + 3 * square,
            "model_flops_causal": products + 3 * causal,
            "hardware_flops": products + again + (7 + 2 * passes) * square // 2,
            "hardware_flops_causal": products + again + (7 + 2 * passes) * causal // 2,
        }
        for recomputation, (again, passes) in recomputed.items()
    }


def lora_model_flops_by_hand(architecture: dict[str, Any]) -> int:
    """Frozen layers forward and their inputs' gradients; adapters everything; nothing into the first block's input."""
    hidden, vocabulary = architecture["hidden_size"], architecture["vocab_size"]
    flops = 2 * product(hidden, vocabulary) + 3 * attention_forward(architecture, LENGTH**2)
    for block in range(architecture["num_hidden_layers"]):
        for name, (inputs, outputs) in linear_layers(architecture).items():
            into_input = block > 0 or name not in ("q_proj", "k_proj", "v_proj")
            flops += (1 + into_input) * product(inputs, outputs)
            flops += (2 + into_input) * product(inputs, RANK) + 3 * product(RANK, outputs)
    return flops


@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
def test_full_training_of_a_small_model_is_what_one_works_out_by_hand(
    small: dict[str, Any], modes: dict[str, Mode], recomputation: str
) -> None:
    got = asdict(counted(small, modes["full"], recomputation))
    for convention, flops in full_by_hand(small)[recomputation].items():
        assert got[convention] == pytest.approx(flops, rel=0, abs=rope(small)), convention


@pytest.mark.parametrize("mode", ["lora7", "qlora7"])
@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
def test_lora_of_a_small_model_needs_what_one_works_out_by_hand_however_it_is_recomputed_or_kept(
    small: dict[str, Any], modes: dict[str, Mode], recomputation: str, mode: str
) -> None:
    got = counted(small, modes[mode], recomputation).model_flops
    assert got == pytest.approx(lora_model_flops_by_hand(small), rel=0, abs=rope(small))


def test_recomputation_under_lora_adds_the_gradient_into_the_first_blocks_input(
    small: dict[str, Any], modes: dict[str, Mode]
) -> None:
    layers = linear_layers(small)
    again = small["num_hidden_layers"] * sum(
        product(inputs, outputs) + product(inputs, RANK) + product(RANK, outputs) for inputs, outputs in layers.values()
    )
    again += attention_forward(small, LENGTH**2)
    into_input = sum(product(*layers[name]) + product(layers[name][0], RANK) for name in ("q_proj", "k_proj", "v_proj"))
    plain = counted(small, modes["lora7"]).hardware_flops
    assert counted(small, modes["lora7"], "reentrant").hardware_flops == plain + again + into_input


def test_biases_and_normalised_queries_add_no_product(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    expected = counted(small, modes["full"])
    for model_type in ("qwen2", "qwen3", "mistral"):
        other = counted({**small, "model_type": model_type, "sliding_window": None}, modes["full"])
        assert other.model_flops == expected.model_flops, model_type
        assert other.hardware_flops_causal == expected.hardware_flops_causal, model_type
    # two norms of head_dim in each of two blocks
    assert counted({**small, "model_type": "qwen3"}, modes["full"]).parameters == expected.parameters + 2 * 2 * 8


@pytest.mark.parametrize("model", ["llama-3.2-1b", "mistral-7b", "qwen2.5-7b", "qwen3-8b"])
def test_the_other_models_agree_with_their_closed_form(published: Any, model: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(**architecture_of(model))
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    block = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    weights = config.num_hidden_layers * block + config.vocab_size * config.hidden_size
    tokens, length = 4096, 2048
    got = published(model, "full", "none")
    assert got.model_flops == pytest.approx(
        6 * tokens * weights + 12 * tokens * length * queries * config.num_hidden_layers, rel=1e-7
    )
    assert got.uncounted == {}


@pytest.mark.sample(4)
@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
@pytest.mark.parametrize("mode", ["full", "lora7", "lora2"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_eager_attention_is_counted_as_pytorch_counts_the_model_on_real_tensors(
    small: dict[str, Any], modes: dict[str, Mode], model_type: str, mode: str, recomputation: str
) -> None:
    architecture = {**small, "model_type": model_type}
    got = counted(architecture, modes[mode], recomputation, attention="eager")
    real = pytorchs_count(architecture, modes[mode], recomputation, attention="eager")
    assert got.hardware_flops == got.hardware_flops_causal == real


@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
@pytest.mark.parametrize("mode", ["full", "lora2"])
def test_fused_attention_is_counted_as_pytorch_counts_its_fused_kernel(
    small: dict[str, Any],
    modes: dict[str, Mode],
    mode: str,
    recomputation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    def fused(query: Any, key: Any, value: Any, **_: Any) -> Any:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    real = pytorchs_count(small, modes[mode], recomputation, attention="sdpa", device="meta")
    assert counted(small, modes[mode], recomputation).hardware_flops == real


def pytorchs_count(
    architecture: dict[str, Any], mode: Mode, recomputation: str, attention: str, device: str = "cpu"
) -> int:
    """FlopCounterMode over the model as a framework would build it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta") if device == "meta" else nullcontext():
        config = AutoConfig.for_model(**architecture)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        if mode.rank is not None:
            targets = list(mode.target_modules or [])
            model = get_peft_model(
                model, LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_dropout=0.05, target_modules=targets)
            )
        ids = torch.zeros(BATCH, LENGTH, dtype=torch.long)
        mask = torch.zeros(1, 1, LENGTH, LENGTH)
        positions = torch.arange(LENGTH).expand(BATCH, -1)  # for every sequence, as the count has them
    if recomputation != "none":
        model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
        model.enable_input_require_grads()
    model.train()
    with FlopCounterMode(display=False) as counter:
        given = {"input_ids": ids, "labels": ids, "attention_mask": mask, "position_ids": positions}
        model(**given, use_cache=False).loss.backward()
    return counter.get_total_flops()


def test_flops_are_linear_in_the_batch(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    shape: dict[str, Any] = {"recomputation": "reentrant", "attention": "sdpa", "sequence_length": LENGTH}
    one = count(small, modes["lora7"], batch_size=1, **shape)
    five = count(small, modes["lora7"], batch_size=5, **shape)
    assert five.model_flops == pytest.approx(5 * one.model_flops, rel=0, abs=5 * rope(small))
    assert five.hardware_flops_causal == pytest.approx(5 * one.hardware_flops_causal, rel=0, abs=5 * rope(small))
    assert five.trainable_parameters == one.trainable_parameters


def test_a_scaled_count_has_the_flops_of_a_step_and_the_parameters_of_the_model(
    small: dict[str, Any], modes: dict[str, Mode]
) -> None:
    one = counted(small, modes["full"])
    step = one.scaled(4)
    assert step.model_flops == 4 * one.model_flops
    assert step.model_flops_causal == 4 * one.model_flops_causal
    assert step.hardware_flops == 4 * one.hardware_flops
    assert step.hardware_flops_causal == 4 * one.hardware_flops_causal
    assert (step.parameters, step.trainable_parameters) == (one.parameters, one.trainable_parameters)


def test_eager_attention_costs_twice_its_forward_backward_and_computes_the_masked_half(
    small: dict[str, Any], modes: dict[str, Mode]
) -> None:
    eager, fused = (counted(small, modes["full"], attention=attention) for attention in ("eager", "flash_attention_2"))
    assert eager.model_flops == fused.model_flops == eager.hardware_flops == eager.hardware_flops_causal
    assert fused.hardware_flops - eager.hardware_flops == attention_forward(small, LENGTH**2) // 2
    assert eager.model_flops_causal == fused.model_flops_causal


def test_tied_embeddings_are_one_parameter(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    tied = counted({**small, "tie_word_embeddings": True}, modes["full"])
    untied = counted({**small, "tie_word_embeddings": False}, modes["full"])
    assert untied.parameters - tied.parameters == small["vocab_size"] * small["hidden_size"]
    assert untied.model_flops == tied.model_flops
