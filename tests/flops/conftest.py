"""What the FLOP tests share: architectures out of conf/model, a small one, and the modes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from architectures import architecture_of

from mfubench.config import Mode
from mfubench.flops.count import count
from mfubench.flops.counts import FlopCount

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="session")
def modes() -> dict[str, Mode]:
    """Full training, LoRA r=8 on the seven targets of a block, on those and lm_head, on two of them, and over 4 bits."""
    return {
        "full": Mode(name="full"),
        "lora7": Mode(name="lora", rank=8, alpha=16, dropout=0.05, target_modules=SEVEN),
        "lora8": Mode(name="lora", rank=8, alpha=16, dropout=0.05, target_modules=[*SEVEN, "lm_head"]),
        "lora2": Mode(name="lora", rank=8, alpha=16, dropout=0.05, target_modules=["q_proj", "v_proj"]),
        "qlora7": Mode(name="qlora", rank=8, alpha=16, dropout=0.05, target_modules=SEVEN, quantization="nf4"),
    }


@pytest.fixture(scope="session")
def published(modes: dict[str, Mode]) -> Callable[[str, str, str], FlopCount]:
    """Model, mode and recomputation in; the count of 2 x 2048 positions with SDPA out, counted once a session."""

    @cache
    def counted(model: str, mode: str, recomputation: str) -> FlopCount:
        architecture = architecture_of(model)
        return count(
            architecture,
            modes[mode],
            recomputation=recomputation,
            attention="sdpa",
            batch_size=2,
            sequence_length=2048,
        )

    return counted


@pytest.fixture
def small() -> dict[str, Any]:
    """A Llama of 2 blocks with grouped queries: 6 heads of 8 channels over 2 key-value heads."""
    return {
        "model_type": "llama",
        "vocab_size": 320,
        "hidden_size": 36,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
