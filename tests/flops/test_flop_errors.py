"""What can't be counted is refused before anything is started, in words that name what would be right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mfubench.config import Mode
from mfubench.flops.count import count, profile
from mfubench.flops.recurrence import keeps_state, state_flops
from mfubench.workload.architecture import in_one_line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"model_type": "lama"}}, "model_type=lama.*did you mean llama"),
        ({"architecture": {}}, "model_type=None.*no causal language model"),
        (
            {"architecture": {"model_type": "llama", "hidden_size": "wide"}},
            "can't build or run this llama: .*hidden_size",
        ),
        (
            {"architecture": {"model_type": "llama", "hidden_act": "swilu"}},
            r"KeyError: .*swilu.* \(in \w+\.__init__\)$",
        ),
        (
            {"architecture": {"model_type": "llama", "pad_token_id": 32000}},
            r"AssertionError: .*adding_idx.* \(in \w+\.__init__\)$",
        ),
        ({"sequence_length": 65}, "sequence_length=65 is beyond the 64 positions"),
        ({"sequence_length": 0}, "sequence_length=0 must be at least 1"),
        ({"batch_size": -2}, "batch_size=-2 must be at least 1"),
        ({"recomputation": "selective"}, "gradient_checkpointing=selective.*none, reentrant, non_reentrant"),
        ({"attention": "flex"}, "attention=flex.*sdpa, eager, flash_attention_2"),
        ({"mode": Mode(name="dora")}, "mode=dora.*full, lora, qlora"),
        ({"mode": Mode(name="lora", rank=0, target_modules=["q_proj"])}, "mode.rank=0 must be at least 1"),
        ({"mode": Mode(name="qlora", target_modules=["q_proj"])}, "mode.rank=None must be at least 1"),
        ({"mode": Mode(name="lora", rank=4, target_modules=[])}, "LoRA needs a target.*q_proj"),
        ({"architecture": {"model_type": "gemma2"}}, "no sdpa for gemma2.*eager or flash_attention_2"),
        ({"architecture": {"model_type": "falcon"}}, "falcon can't be counted: the products of FalconAttention aren't"),
        ({"architecture": {"model_type": "kimi_k2"}}, "has the architecture of deepseek_v3: give .*=deepseek_v3$"),
        ({"architecture": {"model_type": "xlstm"}}, "the recurrence of xLSTMLayer can't be counted"),
        ({"architecture": {"model_type": "musicgen"}}, "can't build or run this musicgen: AttributeError: .*'dropout'"),
        (
            {"architecture": {"model_type": "bloom"}, "attention": "eager"},
            r"ValueError: too many values.* \(in BloomModel\.forward\)$",
        ),
        ({"architecture": {"model_type": "gemma3n"}}, "this gemma3n: ImportError: .*timm"),
        (
            {"mode": Mode(name="lora", rank=4, target_modules=["q_proj", "c_attn"])},
            "c_attn match no linear layer.*this model's linear layers: "
            r"q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head\)$",
        ),
    ],
)
def test_what_the_model_cannot_be_is_a_value_error_that_names_what_would_be_right(
    small: dict[str, Any], modes: dict[str, Mode], change: dict[str, Any], message: str
) -> None:
    asked: dict[str, Any] = {
        "architecture": small,
        "mode": modes["full"],
        "recomputation": "none",
        "attention": "sdpa",
        "batch_size": 1,
        "sequence_length": 8,
    }
    with pytest.raises(ValueError, match=message):
        count(**{**asked, **change})


@pytest.mark.sample(30)
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_every_causal_language_model_of_transformers_is_counted_or_refused_in_one_line(model_type: str) -> None:
    try:
        counted = profile({"model_type": model_type}, Mode(name="full"), recomputation="none", attention="eager")
    except ValueError as error:
        assert "model.architecture" in str(error) and "\n" not in str(error)
    else:
        assert counted.of(1, 64).model_flops > 0 and counted.uncounted == {}


def test_a_recurrence_that_has_a_decay_and_no_formula_is_never_counted() -> None:
    class Unknown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dt_bias = torch.nn.Parameter(torch.ones(4))

    assert keeps_state(Unknown())
    with pytest.raises(ValueError, match="the recurrence of Unknown can't be counted"):
        state_flops(Unknown())


def test_an_error_of_our_own_is_not_taken_for_transformers() -> None:
    with pytest.raises(ZeroDivisionError), in_one_line({"model_type": "llama"}):
        print(1 / 0)
