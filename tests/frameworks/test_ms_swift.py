"""ms-swift, really run: the work is what was asked for, on one rank, two and two nodes; and what it leaves out is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from native_keys import known, written

MS_SWIFT = "framework=ms_swift"
KEYS = """
from dataclasses import fields
from swift.arguments import SftArguments
for field in fields(SftArguments):
    if field.init:
        print(f"+{field.name}")
"""

Measured = Callable[..., dict[str, Any]]


def test_every_native_key_is_one_of_the_frameworks() -> None:
    assert written("ms_swift") <= known("ms_swift", KEYS)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_every_position_is_computed_and_trained_on(measured: Measured, mode: str) -> None:
    result = measured(MS_SWIFT, f"mode={mode}")
    assert (result["status"], result["reason"]) == ("ok", None)
    measurement = result["measurement"]
    assert measurement["positions_per_step"] == measurement["real_tokens_per_step"] == 2 * 256
    # It never labels a sequence's first token, for which there is nothing to predict it from.
    assert measurement["trained_tokens_per_step"] == 2 * 255
    assert result["work"]["recomputation"] == "none"


@pytest.mark.parametrize("kind", ["reentrant", "non_reentrant"])
def test_checkpointing_is_of_the_kind_that_was_asked_for(measured: Measured, kind: str) -> None:
    result = measured(MS_SWIFT, "mode=lora", f"gradient_checkpointing={kind}")
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["work"]["recomputation"] == kind


def test_two_ranks_train_with_zero_2(measured: Measured) -> None:
    result = measured(MS_SWIFT, "parallelism=zero2")
    assert (result["status"], result["reason"]) == ("ok", None)
    work = result["work"]
    assert (work["world_size"], work["zero_stage"], work["parallel_wrappers"]) == (2, 2, ["DeepSpeedEngine"])


def test_two_nodes_train_together(on_two_nodes: Measured) -> None:
    result = on_two_nodes(MS_SWIFT, "parallelism=ddp")
    assert (result["status"], result["reason"], result["nodes"]) == ("ok", None, {"node0": [0], "node1": [1]})
    work = result["work"]
    assert work["world_size"] == 2 and "DistributedDataParallel" in work["parallel_wrappers"]


def test_a_trimmed_lm_head_is_seen_in_the_flops_of_a_step(measured: Measured) -> None:
    # Its own defaults: the prompt isn't trained on, and lm_head computes from the position before the first that is.
    trimmed = ("+framework.native.use_logits_to_keep=true", "+framework.native.loss_scale=default")
    result = measured(MS_SWIFT, "measurement.profile_flops=true", "measurement.warmup_steps=3", *trimmed)
    assert result["status"] == "ok"
    trained = result["measurement"]["trained_tokens_per_step"]
    left_out = 2 * 256 - (trained + 2)
    assert left_out > 0
    counted = result["in_situ"]
    # A position that goes through lm_head, from 384 to 8192, costs 2 FLOPs a weight forward and 4 backward.
    assert counted["expected_flops"] - counted["flops"] == left_out * 6 * 384 * 8192
    assert any("counted in the framework's own process" in warning["text"] for warning in result["warnings"])
