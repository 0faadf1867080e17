"""What can't be counted is refused before anything is started, in words that name what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops import count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {"model_type": "lama"}}, "model_type=lama.*did you mean llama"),
        ({"architecture": {}}, "model_type=None.*no causal language model"),
        ({"architecture": {"model_type": "llama", "hidden_size": "wide"}}, "rejects it as a llama config.*hidden_size"),
        ({"architecture": {"model_type": "llama", "hidden_act": "swilu"}}, "can't make a model of it.*swilu"),
        ({"architecture": {"model_type": "llama", "pad_token_id": 32000}}, "can't make a model of it.*adding_idx"),
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
        ({"architecture": {"model_type": "falcon"}}, "falcon can't be counted: its products aren't proportional"),
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
