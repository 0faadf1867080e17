"""DeepSpeed's engine on two real ranks: it steps once per parameter group, at stage 0 in bf16 before training too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from architectures import BUILDS_OPERATORS

from mfubench.records.expected import Expected
from mfubench.records.invariants import differences
from mfubench.records.reading import MicroBatch

pytestmark = BUILDS_OPERATORS

LAYERS, HIDDEN, MLP, VOCABULARY, KEYS = 3, 32, 48, 64, 16  # of the trainer's model; 2 of 4 heads have keys of their own
MATRICES = 2 * VOCABULARY * HIDDEN + LAYERS * (2 * HIDDEN * (HIDDEN + KEYS) + 3 * HIDDEN * MLP)
MODEL = MATRICES + (2 * LAYERS + 1) * HIDDEN
UNUSED_ADAPTER = 4 * (HIDDEN + VOCABULARY)
TENSORS = 2 + 9 * LAYERS + 1
CALLS_IN_A_BLOCK = 4  # two norms, attention and MLP: what a checkpointed block calls
BATCH = MicroBatch(2, 16, real_tokens=None, trained_tokens=None)  # without a DataLoader nobody counts tokens


@dataclass(frozen=True)
class Case:
    """Options of the trainer, and what they make of it."""

    options: str
    sharded: int  # over this many ranks, what is stepped
    gradients: int  # tensors with one, as the optimizers find them: those of the model, or a flat one per group
    dtype: str = "float32"
    recomputation: str = "none"
    with_adapter: bool = True


CASES = {
    "0 bf16": Case("--stage 0 --bf16", 1, TENSORS, "bfloat16", with_adapter=False),
    "1": Case("--stage 1 --unused-adapter", 2, 2),
    "2 bf16": Case("--stage 2 --bf16 --unused-adapter --checkpointing reentrant", 2, 2, "bfloat16", "reentrant"),
    "3 bf16": Case(
        "--stage 3 --bf16 --unused-adapter --checkpointing non_reentrant", 2, 2, "bfloat16", "non_reentrant"
    ),
}


# Stage 2 in bf16 is in test_in_situ.py too.
SLOW = ("0 bf16", "2 bf16")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run_pair: Callable) -> Any:
    """(the case, what ran)"""
    case = CASES[request.param]
    return case, run_pair("deepspeed_llama.py", *case.options.split(), folder=tmp_path_factory.mktemp("deepspeed"))


def test_the_steps_are_the_trainers_and_each_has_its_micro_batches(ran: Any) -> None:
    _, pair = ran
    assert [rank.rank for rank in pair.records.ranks] == [0, 1]
    for rank in pair.records.ranks:
        assert rank.micro_batches == ((BATCH,) * 2,) * 3  # three periods between the first forwards of four steps
        assert rank.errors == ()
    boundaries = pair.records.ranks[0].boundaries_s
    assert len(boundaries) == len(pair.first_forwards_s) == 4
    for boundary, (before, after) in zip(boundaries, pair.first_forwards_s, strict=True):
        assert before < boundary < after


def test_the_effort_is_the_same_in_every_step(ran: Any) -> None:
    case, pair = ran
    recomputed = 0 if case.recomputation == "none" else 2 * LAYERS * CALLS_IN_A_BLOCK
    for rank in pair.records.ranks:
        assert rank.gradient_and_recompute_counts == ((case.gradients, recomputed),) * 3


def test_parameters_are_whole_and_one_without_a_gradient_shows(ran: Any) -> None:
    case, pair = ran
    parameters = MODEL + UNUSED_ADAPTER * case.with_adapter
    for rank in pair.records.ranks:
        assert rank.work["parameters"] == rank.work["trainable_parameters"] == parameters
        assert rank.work["trainable_parameters_with_gradient"] == MODEL
        assert rank.work["dtypes"] == {"trainable": {case.dtype: parameters}, "frozen": {}}
        assert rank.work["linear_dtype"] == case.dtype


def test_what_is_stepped_are_shards_of_a_copy_in_fp32(ran: Any) -> None:
    case, pair = ran
    shard = (MODEL + UNUSED_ADAPTER * case.with_adapter) // case.sharded
    for rank in pair.records.ranks:
        assert rank.work["optimizers_step_copies"] is True
        assert rank.work["optimizers"] == [
            {"class": "AdamW", "fused": None, "steps": {"float32": shard}, "state": {"float32": 2 * shard}}
        ]


def test_the_engine_attention_and_recomputation_are_seen(ran: Any) -> None:
    case, pair = ran
    for rank in pair.records.ranks:
        assert rank.work["wrappers"] == ["DeepSpeedEngine", "LlamaForCausalLM"]
        assert rank.work["parallel_wrappers"] == ["DeepSpeedEngine"]
        assert rank.work["zero_stage"] == int(case.options.split()[1])
        assert rank.work["recomputation"] == case.recomputation
        assert rank.work["recomputed"] == ({} if case.recomputation == "none" else {"LlamaDecoderLayer": LAYERS})
        assert rank.work["attention"] == {
            "implementation": "sdpa",
            "sdpa_calls": 2 * LAYERS,
            "sdpa_causal_calls": 2 * LAYERS,
            "sdpa_masked_calls": 0,
        }


def test_what_was_asked_was_done_but_for_the_adapter_without_a_gradient(ran: Any) -> None:
    case, pair = ran
    parameters = MODEL + UNUSED_ADAPTER * case.with_adapter
    asked = Expected(
        num_ranks=2,
        micro_batch_shape=(2, 16),
        micro_batches_per_step=2,
        periods=3,
        trainable_parameters=parameters,
        parameters=parameters,
        recomputation=case.recomputation,
        wrapper="DeepSpeedEngine",
        attention="sdpa",
        linear_dtype=case.dtype,
        optimizer_dtype="float32",
        liger_kernels=frozenset(),
        torch_compile=False,
    )
    found = [(each.what, each.asked, each.seen) for each in differences(pair.records, asked)]
    missing = ("trainable parameters with a gradient on rank", f"{parameters}", f"{MODEL}")
    assert found == [(f"{missing[0]} {rank}", *missing[1:]) for rank in (0, 1) if case.with_adapter]
