"""Axolotl, really run: the work is what was asked for; and what it passes over or drops in silence is held here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_keys import known, written

AXOLOTL = "framework=axolotl"
SHORT = ("sequence_length=64", "batch_size=1")
# A field that has an alias is read by both names.
KEYS = """
from axolotl.integrations.liger.args import LigerArgs
from axolotl.utils.schemas.config import AxolotlInputConfig
for schema in (AxolotlInputConfig, LigerArgs):
    for name in schema.model_fields:
        print(f"+{name}")
"""

Measured = Callable[..., dict[str, Any]]


def test_every_native_key_is_one_of_the_frameworks() -> None:
    assert written("axolotl") <= known("axolotl", KEYS)


def test_a_key_that_it_does_not_know_is_passed_over_in_silence(measured: Measured) -> None:
    result = measured(AXOLOTL, "+framework.native.sequence_length=128", *SHORT)
    assert result["status"] == "ok"
    assert result["measurement"]["positions_per_step"] == 64


@pytest.mark.parametrize("kind", ["reentrant", "non_reentrant"])
def test_checkpointing_is_of_the_kind_that_was_asked_for(measured: Measured, kind: str) -> None:
    result = measured(AXOLOTL, "mode=lora", f"gradient_checkpointing={kind}", *SHORT)
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["work"]["recomputation"] == kind


def test_lora_on_lm_head_is_trained(measured: Measured) -> None:
    result = measured(AXOLOTL, "mode=lora", "mode.target_modules=[q_proj,lm_head]", *SHORT)
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["work"]["trainable_parameters_with_gradient"] == 8 * (4 * (384 + 384) + (384 + 8192))


def test_a_length_that_is_no_multiple_of_64_is_not_padded_to_one(measured: Measured) -> None:
    result = measured(AXOLOTL, "sequence_length=50", "batch_size=3")
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["measurement"]["positions_per_step"] == 3 * 50


def test_its_own_default_drops_the_samples_that_are_cut_here(measured: Measured) -> None:
    result = measured(AXOLOTL, "+framework.native.excess_length_strategy=drop", *SHORT)
    assert (result["status"], result["outcome"]["returncode"]) == ("no_records", 0)


def test_its_fused_kernels_for_lora_are_off_unless_its_own_defaults_are_asked_for(measured: Measured) -> None:
    config = measured(AXOLOTL, "mode=lora")["plan"]["config"]
    assert "lora_mlp_kernel: false" in config
    out_of_the_box = measured(AXOLOTL, "mode=lora", "comparison=defaults")
    assert out_of_the_box["status"] == "unsupported"
    assert "Triton" in out_of_the_box["reason"]


def test_conversations_are_the_same_tokens_as_in_another_framework(measured: Measured, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": role, "content": "babe " * words} for role in ("user", "assistant")]}
        for words in (1, 9, 3, 20, 7, 2, 12, 5)
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ("data=jsonl", f"data.path={tmp_path / 'chat.jsonl'}", "sequence_length=64")
    ours, other = measured(AXOLOTL, *data), measured(*data)
    assert {ours["status"], other["status"]} == {"ok"}
    for tokens in ("positions_per_step", "real_tokens_per_step"):
        assert ours["measurement"][tokens] == other["measurement"][tokens]


# The last, so that the sweep of another worker, which begins with this framework, has its results by then.
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_every_position_is_computed_and_trained_on(measured: Measured, mode: str) -> None:
    result = measured(AXOLOTL, f"mode={mode}")
    assert (result["status"], result["reason"]) == ("ok", None)
    measurement = result["measurement"]
    assert measurement["positions_per_step"] == measurement["real_tokens_per_step"] == 2 * 256
    assert measurement["trained_tokens_per_step"] == 2 * 256
    assert result["work"]["recomputation"] == "none"
