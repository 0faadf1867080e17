"""A Profile gives for every shape what a trace of the whole model at that very shape finds, to the last FLOP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.config.validate import ATTENTIONS
from mfubench.flops.attention import kernel_flops, model_flops
from mfubench.flops.count import EXPERTS, profile, repetition
from mfubench.flops.counts import FlopCount
from mfubench.flops.meta_model import bare_model, checkpoint, isolated, with_lora
from mfubench.flops.trace import trace
from mfubench.workload.architecture import config_of

SHAPES = [(5, 7), (1, 10), (3, 64)]  # around the window of 10, up to the last position
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 4},
    "gemma2": {"num_hidden_layers": 6, "sliding_window": 10, "pad_token_id": 0},
    "mixtral": {"num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_hidden_layers": 3, "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 16},
}


def whole(architecture: dict[str, Any], mode: Mode, recomputation: str, shape: tuple[int, int]) -> dict[str, FlopCount]:
    """The count for each kernel by the slow way: every block of the model traced, at the shape itself."""
    asked = {"batch_size": shape[0], "sequence_length": shape[1]}
    batch_size, documents = shape[0], (shape[1],)
    with isolated():
        model = bare_model(config_of(architecture), EXPERTS)
        model = model if mode.rank is None else with_lora(model, mode)
        needed = executed = trace(model, **asked)
        if recomputation != "none":
            checkpoint(model, recomputation)
            executed = trace(model, **asked)
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]

    def of_model(causal: bool) -> int:
        calls = needed.attention_calls.items()
        return needed.product_flops + sum(
            n * model_flops(call, batch_size, documents, causal=causal) for call, n in calls
        )

    def of_hardware(kernel: str, skip: bool) -> int:
        calls = executed.attention_calls.items()
        shaped = (batch_size, documents)
        flops = (n * kernel_flops(call, *shaped, kernel=kernel, skip_masked=skip) for call, n in calls)
        return executed.product_flops + sum(flops)

    return {
        kernel: FlopCount(
            model_flops=of_model(causal=False),
            model_flops_causal=of_model(causal=True),
            hardware_flops=of_hardware(kernel, skip=False),
            hardware_flops_causal=of_hardware(kernel, skip=True),
            parameters=sum(size for size, _ in sizes),
            trainable_parameters=sum(size for size, trainable in sizes if trainable),
            uncounted=executed.uncounted,
        )
        for kernel in ATTENTIONS
    }


@pytest.mark.sample(5)
@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
@pytest.mark.parametrize("mode", ["full", "lora2"])
@pytest.mark.parametrize("model_type", MODELS)
def test_any_shape_is_counted_as_a_trace_of_the_whole_model_finds_it(
    small: dict[str, Any], modes: dict[str, Mode], model_type: str, mode: str, recomputation: str
) -> None:
    architecture = {**small, "model_type": model_type, "hidden_size": 48, **MODELS[model_type]}
    found = profile(architecture, modes[mode], recomputation=recomputation, attention="flash_attention_2")
    for shape in SHAPES:
        for kernel, counted in whole(architecture, modes[mode], recomputation, shape).items():
            assert replace(found, attention=kernel).of(*shape) == counted, (kernel, shape)


def test_a_profile_for_another_kernel_differs_in_the_kernel_alone(
    small: dict[str, Any], modes: dict[str, Mode]
) -> None:
    found = [profile(small, modes["lora2"], recomputation="reentrant", attention=kernel) for kernel in ATTENTIONS]
    assert [replace(each, attention="sdpa") for each in found] == [found[0]] * 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_hidden_layers": 6}, (1, 6)),
        ({"num_hidden_layers": 2}, None),  # nothing to gain
        ({"model_type": "gemma2", "num_hidden_layers": 6}, (2, 3)),
        ({"model_type": "gemma2", "num_hidden_layers": 7}, None),  # the last period is not whole
        ({"model_type": "gemma2", "num_hidden_layers": 6, "layer_types": ["full_attention"] * 6}, (1, 6)),
        ({"model_type": "qwen3_moe", "num_hidden_layers": 6, "decoder_sparse_step": 2}, (2, 3)),
        ({"model_type": "qwen3_moe", "num_hidden_layers": 6, "mlp_only_layers": [4]}, None),
    ],
)
def test_only_blocks_that_are_exactly_alike_are_a_repetition(
    small: dict[str, Any], change: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    with isolated():
        found = repetition(bare_model(config_of({**small, "hidden_size": 48, "pad_token_id": 0, **change})))
    assert (found and (found.period, found.times)) == expected


def test_a_target_in_one_block_only_is_counted_in_that_block(small: dict[str, Any]) -> None:
    architecture = {**small, "num_hidden_layers": 5}
    mode = Mode(name="lora", rank=8, target_modules=["layers.3.self_attn.q_proj", "layers.4.self_attn.q_proj"])
    found = profile(architecture, mode, recomputation="none", attention="sdpa")
    assert found.of(3, 20) == whole(architecture, mode, "none", (3, 20))["sdpa"]
    assert found.trainable_parameters == 2 * 8 * (36 + 48)


def test_flops_per_position_rise_with_the_length_of_the_sequences(
    small: dict[str, Any], modes: dict[str, Mode]
) -> None:
    found = profile(small, modes["full"], recomputation="none", attention="sdpa")
    # Sixty positions as 1 x 60 or 6 x 10: the plain products are the same, attention's pairs are 3600 or 600.
    long, short = found.of(1, 60), found.of(6, 10)
    heads_and_blocks = 6 * 2
    assert long.model_flops - short.model_flops == 3 * 4 * heads_and_blocks * 8 * (3600 - 600)
    assert long.model_flops_causal - short.model_flops_causal == 3 * 4 * heads_and_blocks * 8 * (1830 - 330)
