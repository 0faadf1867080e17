"""LoRA as recipes say it: all-linear, a regular expression, modules trained in full beside it, GPT-2's Conv1D."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_flop_count import BATCH, LENGTH, counted, product

from mfubench.config import ConfigError, Experiment, WrongCombination
from mfubench.config.validate import validate
from mfubench.flops.analytic import analytic_count
from mfubench.flops.counts import FlopCount

SEVEN = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 8192, "n_positions": 128}


@pytest.fixture
def lora(compose: Callable[..., Experiment]) -> Callable[..., FlopCount]:
    def count_of(*overrides: str, architecture: dict[str, object] | None = None) -> FlopCount:
        experiment = compose("mode=lora", *overrides)
        return counted(architecture or experiment.model.architecture, experiment.mode)

    return count_of


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("all-linear", SEVEN),
        (r"'.*\.(q|v)_proj'", "q_proj,v_proj"),
        (r"'model\.layers\.[01]\.mlp\..*_proj'", "layers.0.mlp.up_proj,layers.1.mlp.up_proj,layers.0.mlp.gate_proj,"
        "layers.1.mlp.gate_proj,layers.0.mlp.down_proj,layers.1.mlp.down_proj"),
        ("'lm_head|.*q_proj'", "q_proj,lm_head"),
    ],
)  # fmt: skip
def test_a_text_adapts_the_layers_that_it_means(
    lora: Callable[..., FlopCount], compose: Callable[..., Experiment], text: str, names: str
) -> None:
    by_text = lora(f"mode.target_modules={text}")
    assert by_text == lora(f"mode.target_modules=[{names}]")
    experiment = compose("mode=lora", f"mode.target_modules={text}")
    second = analytic_count(
        experiment.model.architecture,
        experiment.mode,
        recomputation="none",
        attention="sdpa",
        batch_size=BATCH,
        sequence_length=LENGTH,
    )
    assert second is not None and second.model_flops == by_text.model_flops
    assert experiment.mode.adapts("lm_head") == ("lm_head" in text)


def test_modules_to_save_are_trained_in_full(
    lora: Callable[..., FlopCount], compose: Callable[..., Experiment]
) -> None:
    plain, saved = lora(), lora("mode.modules_to_save=[embed_tokens,lm_head]")
    sizes = compose().model.architecture
    hidden, vocabulary = sizes["hidden_size"], sizes["vocab_size"]
    of_keys = hidden * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    assert saved.trainable_parameters == plain.trainable_parameters + 2 * hidden * vocabulary
    assert saved.parameters == plain.parameters + 2 * hidden * vocabulary  # the copies beside the frozen ones
    # The gradient of lm_head's weight; and into the first block's input, by its three projections and their matrices.
    into_input = sum(product(hidden, width) + product(hidden, 8) for width in (hidden, of_keys, of_keys))
    assert saved.model_flops == plain.model_flops + product(hidden, vocabulary) + into_input


def test_conv1d_is_a_linear_layer(lora: Callable[..., FlopCount]) -> None:
    adapted = lora("mode.target_modules=[c_attn]", architecture=GPT2)
    assert adapted.trainable_parameters == 2 * 8 * (64 + 3 * 64)
    frozen = 2 * (2 * 12 * 64**2 * 2 * BATCH * LENGTH) - product(64, 3 * 64)  # forward and into inputs, but the first's
    adapters = 2 * (3 * product(64, 8) + 3 * product(8, 192)) - product(64, 8)
    assert adapted.model_flops == frozen + adapters + 2 * product(64, 8192) + 3 * 2 * 4 * BATCH * 64 * LENGTH**2
    assert lora("mode.target_modules=all-linear", architecture=GPT2).trainable_parameters == 2 * 8 * (256 + 128 + 640)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("mode.target_modules='.*w_proj'", "match no linear layer"),
        ("mode.target_modules='.*'", "PEFT can't adapt all that it matches"),
        ("mode.modules_to_save=[embed_token]", "has no module embed_token"),
    ],
)
def test_what_adapts_nothing_is_refused(lora: Callable[..., FlopCount], override: str, problem: str) -> None:
    with pytest.raises(WrongCombination, match=problem):
        lora(override)


def test_dora_is_refused_since_it_is_not_counted(compose: Callable[..., Experiment]) -> None:
    with pytest.raises(ConfigError, match="DoRA's products aren't counted") as refused:
        validate(compose("mode=lora", "mode.use_dora=true"))
    assert refused.value.instead == "mode.use_dora=false"
