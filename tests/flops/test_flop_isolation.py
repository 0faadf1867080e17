"""Counting changes nothing in the process that counts, and says nothing."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest

from mfubench.config import Mode
from mfubench.flops.count import count


@pytest.mark.parametrize("fails", [False, True])
def test_counting_leaves_the_process_as_it_was_even_when_it_fails(
    small: dict[str, Any], modes: dict[str, Mode], fails: bool
) -> None:
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def state() -> tuple[Any, ...]:
        return (
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.nn.functional.scaled_dot_product_attention,
            sorted(ALL_ATTENTION_FUNCTIONS),
            [logging.getLogger(name).level for name in ("", "transformers", "peft", "torch", "bitsandbytes")],
        )

    architecture = copy.deepcopy(small)
    if fails:
        architecture["num_attention_heads"] = 9  # nine heads over two key-value heads: fails while it is traced
    given, before = copy.deepcopy(architecture), state()
    with torch.no_grad(), pytest.raises(ValueError, match="9 query heads can't share 2") if fails else nullcontext():
        count(
            architecture,
            modes["lora7"],
            recomputation="reentrant",
            attention="eager",
            batch_size=1,
            sequence_length=8,
        )
    assert state() == before
    assert architecture == given


def test_counting_prints_nothing() -> None:
    program = (
        "from mfubench.config import Mode; from mfubench.flops.count import count\n"
        "small = dict(model_type='llama', vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,"
        " num_attention_heads=4, max_position_embeddings=32, pad_token_id=0, tie_word_embeddings=True,"
        " rope_parameters=dict(rope_type='default', rope_theta=1e4, unheard_of=1))\n"
        "mode = Mode(name='lora', rank=4, alpha=8, target_modules=['q_proj', 'lm_head'])\n"
        "for recomputation in ('none', 'reentrant', 'non_reentrant'):\n"
        "    count(small, mode, recomputation=recomputation, attention='sdpa', batch_size=1, sequence_length=8)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
