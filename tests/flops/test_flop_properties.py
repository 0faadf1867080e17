"""What holds of any count: of micro-batches of any size, of the limits of LoRA and of a mixture, of packed documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mfubench.config import Experiment, Mode
from mfubench.config.validate import ATTENTIONS
from mfubench.flops.analytic import COUNTS_TOLERANCE, relative_difference
from mfubench.flops.breakdown import hardware_flops
from mfubench.flops.count import count, profile
from mfubench.flops.counts import FlopCount
from mfubench.flops.step import second_count, step_flops

TOTALS = ("model_flops", "model_flops_causal", "hardware_flops", "hardware_flops_causal")
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: list[dict[str, Any]] = [
    {},
    {"model_type": "mistral", "sliding_window": 7},
    {"model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4},
]


def totals(counted: FlopCount) -> list[int]:
    return [getattr(counted, name) for name in TOTALS]


def lora(rank: int, *targets: str) -> Mode:
    return Mode(name="lora", rank=rank, alpha=16, dropout=0.05, target_modules=list(targets))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("mode", ["full", "lora2"])
@pytest.mark.parametrize("change", KINDS, ids=["llama", "mistral", "mixtral"])
def test_flops_are_linear_in_the_sequences_of_a_micro_batch(
    small: dict[str, Any], modes: dict[str, Mode], change: dict[str, Any], mode: str, attention: str
) -> None:
    found = profile({**small, **change}, modes[mode], recomputation="reentrant", attention=attention)
    for documents in (None, (20, 1, 9)):
        one, seven = (found.of(batch, 30, documents=documents) for batch in (1, 7))
        assert totals(seven) == [7 * flops for flops in totals(one)]


@pytest.mark.parametrize("overrides", [(), ("mode=lora", "gradient_checkpointing=non_reentrant", "batch_size=3")])
def test_a_step_is_as_many_micro_batches_as_are_accumulated(
    compose: Callable[..., Experiment], overrides: tuple[str, ...]
) -> None:
    one, five = (compose(*overrides, f"gradient_accumulation_steps={n}") for n in (1, 5))
    assert step_flops(five) == step_flops(one).scaled(5)
    by_formulas = second_count(one)
    assert by_formulas is not None and second_count(five) == by_formulas.scaled(5)
    assert relative_difference(step_flops(five), by_formulas.scaled(5)) < COUNTS_TOLERANCE


def test_lora_of_rank_nought_is_the_frozen_model(small: dict[str, Any]) -> None:
    def of_rank(rank: int) -> FlopCount:
        return count(
            small,
            lora(rank, *SEVEN, "lm_head"),
            recomputation="none",
            attention="eager",
            batch_size=3,
            sequence_length=20,
        )

    one, two = of_rank(1), of_rank(2)
    # 36 -> 6 x 8 channels over 2 x 8 of keys and values; the MLP's 112; 320 entries
    attending, queries_keys_values = 2 * 36 * 48 + 2 * 36 * 16, 36 * 48 + 2 * 36 * 16
    weights = 2 * (attending + 3 * 36 * 112) + 36 * 320
    # forward, and the gradient of what goes in, but for the first block's; attention's three passes over the square
    frozen = 2 * 60 * (2 * weights - queries_keys_values) + 3 * 4 * 2 * 48 * 3 * 20**2
    assert 2 * one.model_flops - two.model_flops == frozen
    assert (
        2 * one.parameters - two.parameters
        == count(
            small, Mode(name="full"), recomputation="none", attention="eager", batch_size=1, sequence_length=2
        ).parameters
    )
    assert 2 * one.trainable_parameters == two.trainable_parameters


@pytest.mark.parametrize("recomputation", ["none", "reentrant"])
@pytest.mark.parametrize("mode", ["full", "lora2"])
def test_a_mixture_of_which_every_expert_is_active_is_a_wide_mlp_and_a_router(
    small: dict[str, Any], modes: dict[str, Mode], mode: str, recomputation: str
) -> None:
    sizes = {**small, "hidden_size": 48, "num_hidden_layers": 3}
    mixture = {**sizes, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 4}
    dense = {**sizes, "model_type": "mistral", "sliding_window": None, "intermediate_size": 4 * 112}
    mixed, wide = (
        profile(each, modes[mode], recomputation=recomputation, attention="sdpa").of(2, 30) for each in (mixture, dense)
    )
    router = 3 * 2 * 60 * 48 * 4  # one product, forward, in three blocks
    passes = 3 if mode == "full" else 2  # a frozen router's weights have no gradient
    again = recomputation == "reentrant"
    assert mixed.model_flops - wide.model_flops == passes * router
    assert mixed.model_flops_causal - wide.model_flops_causal == passes * router
    assert mixed.hardware_flops - wide.hardware_flops == (passes + again) * router


@pytest.mark.parametrize("mode", ["full", "lora8", "qlora7"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("change", KINDS[:2], ids=["llama", "mistral"])
def test_one_document_that_fills_a_sequence_is_that_sequence(
    small: dict[str, Any], modes: dict[str, Mode], change: dict[str, Any], attention: str, mode: str
) -> None:
    found = profile({**small, **change}, modes[mode], recomputation="non_reentrant", attention=attention)
    assert found.of(3, 30, documents=(30,), trained_tokens=90) == found.of(3, 30)
    shape = {"documents": (30,), "trained_tokens": 90}
    assert hardware_flops(found, 3, 30, **shape) == hardware_flops(found, 3, 30)


def test_documents_cost_what_they_would_alone(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    found = profile(small, modes["lora8"], recomputation="reentrant", attention="flash_attention_2")
    alone = [totals(found.of(2, length)) for length in (20, 1, 9)]
    assert totals(found.of(2, 30, documents=(20, 1, 9))) == [sum(each) for each in zip(*alone, strict=True)]


def test_a_mask_for_documents_saves_the_model_flops_and_no_hardware_flops(
    small: dict[str, Any], modes: dict[str, Mode]
) -> None:
    found = profile(small, modes["full"], recomputation="none", attention="sdpa")
    packed, whole = found.of(1, 30, documents=(10, 20)), found.of(1, 30)
    pair = 4 * 2 * 48  # both products, two blocks, 48 channels
    assert whole.model_flops - packed.model_flops == 3 * pair * (900 - 500)
    assert whole.model_flops_causal - packed.model_flops_causal == 3 * pair * (465 - 55 - 210)
    assert packed.hardware_flops == packed.hardware_flops_causal == whole.hardware_flops


@pytest.mark.parametrize("recomputation", ["none", "reentrant"])
def test_lm_head_costs_what_passes_it(small: dict[str, Any], modes: dict[str, Mode], recomputation: str) -> None:
    full = profile(small, modes["full"], recomputation=recomputation, attention="sdpa")
    each = 3 * 2 * 36 * 320  # forward and two gradients, of a position
    for name, flops in zip(TOTALS, totals(full.of(2, 30)), strict=True):
        assert flops - getattr(full.of(2, 30, trained_tokens=7), name) == 53 * each
    adapted = profile(small, modes["lora8"], recomputation=recomputation, attention="sdpa")
    # frozen: forward and the input's gradient; its LoRA matrices: forward, their gradients and the input's
    each = 2 * 2 * 36 * 320 + 3 * 2 * 8 * (36 + 320)
    for name, flops in zip(TOTALS, totals(adapted.of(2, 30)), strict=True):
        assert flops - getattr(adapted.of(2, 30, trained_tokens=7), name) == 53 * each


@pytest.mark.parametrize("mode", ["full", "lora8"])
def test_a_trimmed_lm_head_is_counted_as_pytorch_counts_it(
    small: dict[str, Any], modes: dict[str, Mode], mode: str
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**small), attn_implementation="eager")
    if mode == "lora8":
        model = get_peft_model(model, LoraConfig(r=8, target_modules=[*SEVEN, "lm_head"]))
    ids = torch.zeros(3, 20, dtype=torch.long)
    positions = torch.arange(20).expand(3, -1)
    with FlopCounterMode(display=False) as counter:
        model.train()(input_ids=ids, position_ids=positions, logits_to_keep=4).logits.sum().backward()
    found = profile(small, modes[mode], recomputation="none", attention="eager")
    assert found.of(3, 20, trained_tokens=3 * 4).hardware_flops == counter.get_total_flops()


def test_weights_of_4_bits_cost_loras_flops(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    for recomputation in ("none", "reentrant", "non_reentrant"):
        over_four, over_sixteen = (
            profile(small, modes[mode], recomputation=recomputation, attention="sdpa") for mode in ("qlora7", "lora7")
        )
        assert over_four == over_sixteen


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"documents": (10, 21)}, r"documents of 10, 21 tokens are 31 together.*sequence_length=30"),
        ({"documents": (31, -1)}, "lengths of at least 1"),
        ({"documents": ()}, "are 0 together"),
        ({"trained_tokens": 61}, "61 trained tokens in a micro-batch of 2 x 30 tokens; give 1 to 60"),
        ({"trained_tokens": 0}, "give 1 to 60"),
    ],
)
def test_a_shape_that_no_micro_batch_has_is_refused(
    small: dict[str, Any], modes: dict[str, Mode], shape: dict[str, Any], said: str
) -> None:
    found = profile(small, modes["full"], recomputation="none", attention="sdpa")
    with pytest.raises(ValueError, match=said):
        found.check(2, 30, **shape)


def test_trained_tokens_need_an_lm_head_that_is_known(small: dict[str, Any], modes: dict[str, Mode]) -> None:
    found = profile(small, modes["full"], recomputation="none", attention="sdpa")
    nameless = {key: flops for key, flops in found.needed_products.items() if not key.endswith("/lm_head")}
    with pytest.raises(ValueError, match="no lm_head by that name"):
        replace(found, needed_products=nameless).check(2, 30, trained_tokens=5)
