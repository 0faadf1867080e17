"""LLaMA-Factory, really run: the work is what was asked for, on one rank, two and two nodes; where it isn't, that is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from native_keys import known, written

LLAMA_FACTORY = "framework=llama_factory"
KEYS = """
from dataclasses import fields
from llamafactory.hparams.parser import _TRAIN_ARGS
for arguments in _TRAIN_ARGS:
    for field in fields(arguments):
        if field.init:
            print(f"+{field.name}")
"""

Measured = Callable[..., dict[str, Any]]


def test_every_native_key_is_one_of_the_frameworks() -> None:
    assert written("llama_factory") <= known("llama_factory", KEYS)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_every_position_is_computed_and_trained_on(measured: Measured, mode: str) -> None:
    result = measured(LLAMA_FACTORY, f"mode={mode}")
    assert (result["status"], result["reason"]) == ("ok", None)
    counted = ("positions_per_step", "real_tokens_per_step", "trained_tokens_per_step")
    assert [result["measurement"][count] for count in counted] == [2 * 256] * 3
    assert result["work"]["recomputation"] == "none"


@pytest.mark.parametrize("kind", ["reentrant", "non_reentrant"])
def test_checkpointing_is_of_the_kind_that_was_asked_for(measured: Measured, kind: str) -> None:
    result = measured(LLAMA_FACTORY, "mode=lora", f"gradient_checkpointing={kind}")
    assert (result["status"], result["reason"]) == ("ok", None)
    assert result["work"]["recomputation"] == kind


def test_two_nodes_train_with_zero_2(on_two_nodes: Measured) -> None:
    result = on_two_nodes(LLAMA_FACTORY, "parallelism=zero2")
    assert (result["status"], result["reason"], result["nodes"]) == ("ok", None, {"node0": [0], "node1": [1]})
    work = result["work"]
    assert (work["world_size"], work["zero_stage"], work["parallel_wrappers"]) == (2, 2, ["DeepSpeedEngine"])


def test_zero_that_is_quietly_left_out_is_inconsistent(measured: Measured) -> None:
    # accelerate passes over DeepSpeed where this is set, and trains with DistributedDataParallel.
    result = measured(LLAMA_FACTORY, "parallelism=zero2", "+framework.environment.ACCELERATE_USE_CPU=1")
    assert result["status"] == "inconsistent"
    assert result["measurement"] is None
    wrappers = [d for d in result["differences"] if d["what"].startswith("classes around the model")]
    assert [d["asked"] for d in wrappers] == ["DeepSpeedEngine"] * 2
    assert all("DistributedDataParallel" in d["seen"] for d in wrappers)


def test_a_native_key_that_it_doesnt_know_is_its_own_error(measured: Measured) -> None:
    result = measured(LLAMA_FACTORY, "+framework.native.lora_ranks=8")
    assert result["status"] == "failed"
    assert "lora_ranks" in result["reason"]
