"""What the probe says of transformers' Llama: recomputation, adapters, attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mfubench.records.reading import RankRecord

SCENARIOS = {
    "full, none": "",
    "full, reentrant": "--checkpointing reentrant",
    "full, non_reentrant": "--checkpointing non_reentrant",
    "lora, none": "--lora",
    "lora, reentrant": "--lora --checkpointing reentrant",
    "lora, non_reentrant": "--lora --checkpointing non_reentrant",
    "bypassed head": "--lora --bypassed-head",
    "4 bits, reentrant": "--lora --four-bit --checkpointing reentrant",
    "4 bits, autocast": "--lora --four-bit --autocast",
    "eager": "--attention eager",
}
LAYERS, HIDDEN, MLP, VOCABULARY, KEYS = 3, 32, 48, 64, 16  # of the trainer's model; 2 of 4 heads have keys of their own
FROZEN = 2 * VOCABULARY * HIDDEN + HIDDEN + LAYERS * (2 * HIDDEN * (HIDDEN + KEYS) + 3 * HIDDEN * MLP + 2 * HIDDEN)
ADAPTERS = 4 * LAYERS * (2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + MLP))  # rank 4: r (in + out)
HEAD_ADAPTER = 4 * (HIDDEN + VOCABULARY)


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory, run_several: Callable[..., dict[str, RankRecord]]
) -> dict[str, RankRecord]:
    folder = tmp_path_factory.mktemp("llama")
    return run_several("llama.py", SCENARIOS, folder, "transformers.models.llama.modeling_llama", "peft")


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("kind", ["none", "reentrant", "non_reentrant"])
def test_the_kind_of_recomputation_is_told_from_what_runs(records: dict[str, RankRecord], mode: str, kind: str) -> None:
    work = records[f"{mode}, {kind}"].work
    assert work["recomputation"] == kind
    assert work["recomputed"] == ({} if kind == "none" else {"LlamaDecoderLayer": LAYERS})


@pytest.mark.parametrize("kind", ["none", "reentrant", "non_reentrant"])
def test_recomputation_makes_no_micro_batches(records: dict[str, RankRecord], kind: str) -> None:
    record = records[f"full, {kind}"]
    assert [len(step) for step in record.micro_batches] == [1, 1]
    assert record.errors == ()


def test_parameters_are_those_counted_by_hand(records: dict[str, RankRecord]) -> None:
    full, lora = records["full, none"].work, records["lora, none"].work
    assert full["trainable_parameters"] == full["trainable_parameters_with_gradient"] == full["parameters"] == FROZEN
    assert lora["trainable_parameters"] == lora["trainable_parameters_with_gradient"] == ADAPTERS
    assert lora["parameters"] == FROZEN + ADAPTERS
    assert lora["dtypes"] == {"trainable": {"float32": ADAPTERS}, "frozen": {"float32": FROZEN}}
    assert lora["wrappers"] == ["PeftModel", "LoraModel", "LlamaForCausalLM"]
    assert (lora["model"], lora["model_type"]) == ("LlamaForCausalLM", "llama")


def test_weights_packed_into_bytes_are_counted_one_by_one_in_the_dtype_they_are_multiplied_in(
    records: dict[str, RankRecord],
) -> None:
    packed = LAYERS * (2 * HIDDEN * (HIDDEN + KEYS) + 3 * HIDDEN * MLP)
    for name, dtype in (("4 bits, reentrant", "float32"), ("4 bits, autocast", "bfloat16")):
        work = records[name].work
        assert work["parameters"] == FROZEN + ADAPTERS
        assert work["trainable_parameters"] == work["trainable_parameters_with_gradient"] == ADAPTERS
        assert work["dtypes"]["frozen"] == {"nf4": packed, "float32": FROZEN - packed}
        assert (work["quantized"], work["linear_dtype"]) == ({"nf4": packed}, dtype)
    assert records["4 bits, reentrant"].work["recomputed"] == {"LlamaDecoderLayer": LAYERS}
    assert records["lora, none"].work["quantized"] == {}


def test_an_adapter_that_never_gets_a_gradient_is_seen(records: dict[str, RankRecord]) -> None:
    work = records["bypassed head"].work
    assert work["trainable_parameters"] == ADAPTERS + HEAD_ADAPTER
    assert work["trainable_parameters_with_gradient"] == ADAPTERS


def test_the_optimizer_is_described_by_what_it_steps(records: dict[str, RankRecord]) -> None:
    assert records["lora, none"].work["optimizers"] == [
        {"class": "AdamW", "fused": True, "steps": {"float32": ADAPTERS}, "state": {"float32": 2 * ADAPTERS}}
    ]


def test_attention_is_counted_once_per_layer_and_not_in_recomputation(records: dict[str, RankRecord]) -> None:
    for name in ("full, none", "full, reentrant", "full, non_reentrant"):
        assert records[name].work["attention"] == {
            "implementation": "sdpa",
            "sdpa_calls": LAYERS,
            "sdpa_causal_calls": LAYERS,
            "sdpa_masked_calls": 0,
        }
    eager = records["eager"].work["attention"]
    assert (eager["implementation"], eager["sdpa_calls"]) == ("eager", 0)
