"""fully_shard on two real ranks: sharded parameters are counted whole, and its own classes are not the model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mfubench.records.expected import Expected
from mfubench.records.invariants import differences
from mfubench.records.reading import MicroBatch

LAYERS, HIDDEN, MLP, VOCABULARY, KEYS = 3, 32, 48, 64, 16  # of the trainer's model; 2 of 4 heads have keys of their own
MATRICES = 2 * VOCABULARY * HIDDEN + LAYERS * (2 * HIDDEN * (HIDDEN + KEYS) + 3 * HIDDEN * MLP)
MODEL = MATRICES + (2 * LAYERS + 1) * HIDDEN
TENSORS = 2 + 9 * LAYERS + 1
CALLS_IN_A_BLOCK = 4  # two norms, attention and MLP: what a checkpointed block calls


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, run_pair: Callable) -> Any:
    return run_pair("fsdp2_llama.py", folder=tmp_path_factory.mktemp("fsdp2"))


def test_the_steps_are_the_trainers_and_each_has_its_micro_batches(pair: Any) -> None:
    for rank in pair.records.ranks:
        assert rank.micro_batches == ((MicroBatch(2, 16, None, None),) * 2,) * 3
        assert rank.gradient_and_recompute_counts == ((TENSORS, 2 * LAYERS * CALLS_IN_A_BLOCK),) * 3
    boundaries = pair.records.ranks[0].boundaries_s
    assert len(boundaries) == 4
    for boundary, (before, after) in zip(boundaries, pair.first_forwards_s, strict=True):
        assert before < boundary < after


def test_sharded_parameters_their_gradients_and_states_are_counted_whole(pair: Any) -> None:
    for rank in pair.records.ranks:
        work = rank.work
        assert work["parameters"] == work["trainable_parameters"] == MODEL
        assert work["trainable_parameters_with_gradient"] == MODEL
        assert work["optimizers_step_copies"] is False
        assert work["optimizers"] == [
            {"class": "AdamW", "fused": None, "steps": {"float32": MODEL}, "state": {"float32": 2 * MODEL}}
        ]
        assert work["dtypes"]["trainable"] == {"float32": MODEL}


def test_model_and_blocks_are_named_by_the_classes_that_were_sharded(pair: Any) -> None:
    for rank in pair.records.ranks:
        assert "FSDPModule" in rank.work["parallel_wrappers"]
        assert rank.work["model"] == "LlamaForCausalLM"
        assert rank.work["recomputed"] == {"LlamaDecoderLayer": LAYERS}


def test_what_was_asked_was_done(pair: Any) -> None:
    asked = Expected(
        num_ranks=2,
        micro_batch_shape=(2, 16),
        micro_batches_per_step=2,
        periods=3,
        trainable_parameters=MODEL,
        parameters=MODEL,
        recomputation="non_reentrant",
        recomputed_blocks=LAYERS,
        wrapper="FSDPModule",
        attention="sdpa",
        linear_dtype="bfloat16",
        optimizer_dtype="float32",
        liger_kernels=frozenset(),
    )
    assert differences(pair.records, asked) == ()
