"""The FLOPs of a step, counted inside the process that does it, against the count that is made without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from architectures import BUILDS_OPERATORS

from mfubench.config import Mode
from mfubench.flops.count import count
from mfubench.records.reading import RankRecord, Records, read_records

ARCHITECTURE = {  # of the trainers' model
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FULL, LORA = Mode("full"), Mode("lora", rank=4, alpha=8, target_modules=PROJECTIONS)
# Its options -> what is counted without it: mode, recomputation, attention, micro-batches.
SCENARIOS: dict[str, tuple[Mode, str, str, int]] = {
    "": (FULL, "none", "sdpa", 1),
    "--checkpointing reentrant": (FULL, "reentrant", "sdpa", 1),
    "--checkpointing non_reentrant": (FULL, "non_reentrant", "sdpa", 1),
    "--lora --checkpointing reentrant": (LORA, "reentrant", "sdpa", 1),
    "--lora --checkpointing non_reentrant": (LORA, "non_reentrant", "sdpa", 1),
    "--attention eager": (FULL, "none", "eager", 1),
    "--autocast": (FULL, "none", "sdpa", 1),
    "--accumulation 2 --checkpointing reentrant": (FULL, "reentrant", "sdpa", 2),
    "--evaluation": (FULL, "none", "sdpa", 1),
    "--multiplying-optimizer": (FULL, "none", "sdpa", 1),
    "--step-in-backward": (FULL, "none", "sdpa", 1),
}


def flops(mode: Mode, recomputation: str, attention: str, micro_batches: int) -> int:
    shape = {"batch_size": 2, "sequence_length": 16}
    counted = count(ARCHITECTURE, mode, recomputation=recomputation, attention=attention, **shape)
    return counted.hardware_flops * micro_batches


@pytest.fixture(scope="module", autouse=True)
def profiled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFUBENCH_PROFILE_FLOPS", "1")
        yield


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory, run_several: Callable[..., dict[str, RankRecord]]
) -> dict[str, RankRecord]:
    folder = tmp_path_factory.mktemp("in_situ")
    options = {name: name for name in [*SCENARIOS, "--compiled"]}
    return run_several("llama.py", options, folder, "transformers.models.llama.modeling_llama", "peft")


@pytest.mark.parametrize("options", SCENARIOS)
def test_the_step_does_what_is_counted_for_it_to_the_last_flop(records: dict[str, RankRecord], options: str) -> None:
    record, expected = records[options], SCENARIOS[options]
    assert record.errors == ()
    counted = record.step_flops
    assert counted is not None
    assert [(batch.batch_size, batch.sequence_length) for batch in counted.micro_batches] == [(2, 16)] * expected[3]
    assert (counted.flops, counted.uncounted) == (flops(*expected), {})
    assert sum(counted.by_operator.values()) == counted.flops


def test_the_second_step_is_the_one_that_is_counted(records: dict[str, RankRecord]) -> None:
    assert len(records[""].step_times_s) == 2  # in the third step's first forward it was over
    assert records[""].step_flops is not None


def test_attention_stands_by_itself(records: dict[str, RankRecord]) -> None:
    """Two products of 4 heads, 16 x 16 pairs and 8 channels in each of 2 sequences and 3 layers; 2.5 times that back."""
    counted = records[""].step_flops
    assert counted is not None
    forward = 2 * 3 * 2 * (2 * 4 * 16 * 16 * 8)
    attention = {name: flops for name, flops in counted.by_operator.items() if "attention" in name}
    assert sorted(attention.values()) == [forward, 2.5 * forward]


def test_what_is_compiled_is_out_of_sight_and_not_disturbed(records: dict[str, RankRecord]) -> None:
    record = records["--compiled"]
    assert record.errors == () and record.work["compiled"]
    counted = record.step_flops
    assert counted is not None
    assert (counted.flops, counted.by_operator) == (None, {})


def counted_on_both(records: Records) -> list[tuple[int | None, dict[str, int]]]:
    assert [(rank.rank, rank.errors) for rank in records.ranks] == [(0, ()), (1, ())]
    steps = [rank.step_flops for rank in records.ranks]
    return [(step.flops, dict(step.uncounted)) for step in steps if step is not None]


def test_ranks_of_ddp_each_count_their_own(tmp_path: Path, run: Callable, trainers: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    done = run(*torchrun, trainers / "llama.py", "--ddp", "--accumulation", 2, records=tmp_path)
    assert done.returncode == 0, done.stderr
    assert counted_on_both(read_records(tmp_path)) == [(flops(FULL, "none", "sdpa", 2), {})] * 2


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("trainer", "options", "recomputation"),
    [
        pytest.param(
            "deepspeed_llama.py", "--stage 2 --bf16 --checkpointing reentrant", "reentrant", marks=BUILDS_OPERATORS
        ),
        pytest.param("deepspeed_llama.py", "--stage 3 --bf16", "none", marks=BUILDS_OPERATORS),
        ("fsdp2_llama.py", "", "non_reentrant"),
    ],
)
def test_ranks_that_shard_do_the_same_products(
    tmp_path: Path, run_pair: Callable, trainer: str, options: str, recomputation: str
) -> None:
    pair = run_pair(trainer, *options.split(), folder=tmp_path)
    assert counted_on_both(pair.records) == [(flops(FULL, recomputation, "sdpa", 2), {})] * 2
