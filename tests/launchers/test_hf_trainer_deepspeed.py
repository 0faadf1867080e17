"""hf_trainer under DeepSpeed and FSDP2: ZeRO trains what DistributedDataParallel does, each precision is what it says,
and what can't be run is refused. Two real ranks on a CPU, watched by tests/trainers/watched.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from architectures import BUILDS_OPERATORS

from mfubench.config import Experiment
from mfubench.config.defaults import defaults
from mfubench.files.paths import LAUNCHERS
from mfubench.launch import extensions
from mfubench.plan import support
from mfubench.plan.native import EXTRA_STEPS
from mfubench.plan.plan import Plan

pytestmark = BUILDS_OPERATORS

TRAIN = LAUNCHERS / "hf_trainer" / "train.py"
WATCHED = Path(__file__).parents[1] / "trainers" / "watched.py"
STEPS = 4
LAYERS, HIDDEN, MLP, VOCABULARY, KEYS = 2, 32, 48, 8192, 16  # 2 of 4 heads have keys of their own
NORMS = (2 * LAYERS + 1) * HIDDEN
MATRICES = 2 * VOCABULARY * HIDDEN + LAYERS * (2 * HIDDEN * (HIDDEN + KEYS) + 3 * HIDDEN * MLP)
LORA = LAYERS * 8 * (2 * 2 * HIDDEN + 2 * (HIDDEN + KEYS) + 3 * (HIDDEN + MLP))
LINEARS = 7 * LAYERS + 1
SMALL = (
    f"model.architecture.hidden_size={HIDDEN}",
    f"model.architecture.intermediate_size={MLP}",
    f"model.architecture.num_hidden_layers={LAYERS}",
    "model.architecture.num_attention_heads=4",
    "model.architecture.num_key_value_heads=2",
    "sequence_length=32",
    "gradient_accumulation_steps=2",
    "measurement.warmup_steps=1",
    f"measurement.steps={STEPS - 1 - EXTRA_STEPS}",
    "measurement.profile_steps=0",
)
ZERO = ("zero0", "zero1", "zero2", "zero3")

# Both read the native config as they do on a GPU, but for the backend, which only ranks have.
READ_FSDP = """
import json, sys, yaml
from accelerate import FullyShardedDataParallelPlugin
from transformers import HfArgumentParser, TrainingArguments

native = yaml.safe_load(open(sys.argv[1]))
del native["ddp_backend"]
(arguments,) = HfArgumentParser(TrainingArguments).parse_dict(native, allow_extra_keys=True)
plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
print(json.dumps({
    "version": plugin.fsdp_version,
    "reshard_after_forward": plugin.reshard_after_forward,
    "policy": plugin.auto_wrap_policy.__name__,
    "plugin_checkpointing": plugin.activation_checkpointing,
    "checkpointing": arguments.gradient_checkpointing,
}))
"""

Seen = list[list[dict[str, Any]]]  # by rank: what was noted before each call of an optimizer's step


@pytest.fixture(scope="module")
def trained(
    compose: Callable[..., Experiment], planned: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Seen]:
    """Overrides in; what each rank noted out. The same training is run once."""
    done: dict[tuple[str, ...], Seen] = {}

    def train(*overrides: str, precision: str = "fp32") -> Seen:
        key = (*overrides, precision)
        if key not in done:
            experiment = compose(*SMALL, f"precision={precision}", *overrides)
            folder = tmp_path_factory.mktemp("run")
            done[key] = watched(planned(experiment, folder, precision=precision))
        return done[key]

    return train


def watched(made: Plan) -> Seen:
    """Start what is planned, and return what was noted, rank by rank."""
    at = made.command.index(str(TRAIN))
    ran = subprocess.run(
        [*made.command[:at], str(WATCHED), *made.command[at:]],
        cwd=made.folder,
        env={**os.environ, **extensions.build_environment(sys.executable), **made.environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [(made.folder / f"seen{rank}.jsonl").read_text().splitlines() for rank in range(made.num_ranks)]
    return [[json.loads(line) for line in rank] for rank in lines]


def sums(seen: Seen, groups: int) -> list[float]:
    """Over all ranks and parameter groups, the sum of the weights before each optimizer step."""
    by_step = [
        [sum(call["sum"] for call in rank[i : i + groups]) for i in range(0, len(rank), groups)] for rank in seen
    ]
    return [sum(step) for step in zip(*by_step, strict=True)]


@pytest.mark.sample(2)
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_zero_steps_shards_of_both_groups_to_where_ddp_steps_the_whole(
    trained: Callable[..., Seen], stage: str
) -> None:
    whole = trained("parallelism=ddp")
    shards = trained(f"parallelism={stage}")
    for rank in shards:
        assert len(rank) == 2 * STEPS  # one call a group: matrices, and norms
        assert [call["parameters"] for call in rank] == [MATRICES // 2, NORMS // 2] * STEPS
        assert {call["optimizer"] for call in rank} == {"AdamW"}
        assert [call["wrapper"] for call in rank] == ["DeepSpeedEngine", None] * STEPS
        assert all(call["roots"] == [[2, 32]] * 2 and call["linears"] == 2 * LINEARS for call in rank[::2])
        assert all(call["dtypes"] == ["torch.float32"] for call in rank)
    # Both began with the weights on the disk, read the same samples, and averaged their gradients.
    assert [rank[0]["wrapper"] for rank in whole] == ["DistributedDataParallel"] * 2
    assert [call["tokens"] for call in shards[0][::2]] == [call["tokens"] for call in whole[0]]
    expected = [call["sum"] for call in whole[0]]
    assert sums(shards, groups=2) == pytest.approx(expected, abs=2e-3)
    assert min(abs(b - a) for a, b in pairwise(expected)) > 0.02  # it moves by more than that


@pytest.mark.slow
def test_stage_0_in_bf16_holds_fp32_copies_and_steps_once_before_it_trains(trained: Callable[..., Seen]) -> None:
    seen = trained("parallelism=zero0", "gradient_checkpointing=non_reentrant", precision="bf16")
    for rank in seen:
        first, *steps = rank
        assert len(steps) == STEPS and first["roots"] == [] and first["with_gradient"] == 0
        assert all(call["parameters"] == MATRICES + NORMS for call in rank)
        assert all(call["dtypes"] == ["torch.float32"] and call["outputs"] == ["torch.bfloat16"] for call in steps)
        assert all(call["moments"] == ["torch.float32"] for call in steps)
        # Recomputed with a graph; the head once.
        assert all(call["linears"] == 2 * (LINEARS + 7 * LAYERS) and call["without_graph"] == 0 for call in steps)
    assert [call["sum"] for call in seen[0]] == [call["sum"] for call in seen[1]]


@pytest.mark.slow
def test_bf16_pure_under_zero_holds_moments_and_lora_in_bf16_without_copies(trained: Callable[..., Seen]) -> None:
    seen = trained("parallelism=zero1", "mode=lora", "gradient_checkpointing=reentrant", precision="bf16_pure")
    for rank in seen:
        assert [call["parameters"] for call in rank] == [LORA // 2] * STEPS
        assert all(call["dtypes"] == call["outputs"] == ["torch.bfloat16"] for call in rank)
        assert all(call["moments"] == ["torch.bfloat16"] for call in rank[1:])
        in_blocks = LAYERS * 7 * 3  # a frozen layer and two matrices each, without a graph first
        assert all(call["without_graph"] == 2 * in_blocks for call in rank)


@pytest.mark.slow
def test_weights_in_4_bits_lie_whole_on_each_rank_and_lora_is_sharded(trained: Callable[..., Seen]) -> None:
    seen = trained("parallelism=zero2", "mode=qlora", "gradient_checkpointing=reentrant", precision="bf16")
    for rank in seen:
        assert [call["parameters"] for call in rank] == [LORA // 2] * STEPS
        assert all(call["dtypes"] == ["torch.float32"] and call["outputs"] == ["torch.bfloat16"] for call in rank)
        # The frozen layers are none of torch's: two matrices beside each of them, without a graph first, and the head.
        assert all(call["linears"] == 2 * (2 * 2 * 7 * LAYERS + 1) for call in rank)
    assert len(set(sums(seen, groups=1))) == STEPS


@pytest.mark.slow
def test_one_device_shards_over_itself_and_bf16_lora_has_fp32_copies(trained: Callable[..., Seen]) -> None:
    (rank,) = trained("parallelism=zero2", "parallelism.num_devices=1", "mode=lora", precision="bf16")
    assert [call["parameters"] for call in rank] == [LORA] * STEPS
    assert all(call["dtypes"] == ["torch.float32"] and call["outputs"] == ["torch.bfloat16"] for call in rank)
    assert {call["wrapper"] for call in rank} == {"DeepSpeedEngine"}


def verdict_on(experiment: Experiment, device: str, precision: str) -> str | None:
    """The reason why the experiment is unsupported; None when it isn't."""
    values = support.values_of(experiment, device, precision)
    try:
        support.check_supported(experiment, values, defaults(experiment.mode.name))
    except support.Unsupported as reason:
        return str(reason)
    return None


@pytest.mark.parametrize(
    ("overrides", "device", "precision", "reason"),
    [
        (("parallelism=fsdp2",), "cpu", "fp32", "DistributedDataParallel"),
        (("parallelism=zero0",), "cuda", "bf16_pure", "ZeRO 1, 2 and 3 only"),
        (("parallelism=zero2", "optimizer=adafactor"), "cpu", "bf16", "no rows and columns"),
        (("parallelism=fsdp2", "optimizer=adafactor"), "cuda", "bf16", "DTensors"),
    ],
)
def test_what_does_not_run_is_refused_with_its_reason(
    compose: Callable[..., Experiment], overrides: tuple[str, ...], device: str, precision: str, reason: str
) -> None:
    assert reason in (verdict_on(compose(*overrides), device, precision) or "")


def test_every_other_combination_has_a_native_config_that_trainer_and_deepspeed_agree_on(
    compose: Callable[..., Experiment], planned: Callable[..., Plan], tmp_path: Path
) -> None:
    for parallelism, mode in product((*ZERO, "fsdp2"), ("full", "lora", "qlora")):
        experiment = compose(f"parallelism={parallelism}", f"mode={mode}", "gradient_accumulation_steps=4")
        for precision, device in product(("fp32", "bf16", "bf16_pure"), ("cpu", "cuda")):
            if verdict_on(experiment, device, precision) is not None:
                packed = mode == "qlora" and parallelism in ("zero3", "fsdp2")
                on_cpu = (parallelism, device) == ("fsdp2", "cpu")
                assert packed or on_cpu or (parallelism, precision) == ("zero0", "bf16_pure")
                continue
            made = planned(experiment, tmp_path, device=device, precision=precision)
            native = yaml.safe_load(made.config_text)
            assert native["ddp_backend"] == {"cpu": "gloo", "cuda": "nccl"}[device]
            if parallelism == "fsdp2":
                assert native["fsdp"] is True and native["fsdp_config"]["version"] == 2
                assert native["bf16"] is (precision == "bf16") and made.other_files == {}
                continue
            assert native["deepspeed"] == str(tmp_path / "deepspeed.json")
            assert native["model_dtype"] == {"fp32": "float32"}.get(precision, "bfloat16")
            assert native.get("bnb_4bit_compute_dtype", native["model_dtype"]) == native["model_dtype"]
            assert mode == "full" or native.get("lora_float32", True) is (precision == "fp32")
            deepspeed = json.loads(made.other_files["deepspeed.json"])
            assert deepspeed["bf16"]["enabled"] is native["bf16"] is (precision != "fp32")
            assert deepspeed["gradient_accumulation_steps"] == native["gradient_accumulation_steps"] == 4
            assert deepspeed["zero_optimization"] == {
                "stage": int(parallelism[-1]),
                "overlap_comm": True,
                "contiguous_gradients": True,
                "reduce_scatter": True,
                "reduce_bucket_size": 500_000_000,
                "allgather_partitions": True,
                "allgather_bucket_size": 500_000_000,
            }


def test_fsdp2_reaches_accelerate_as_its_version_2(
    compose: Callable[..., Experiment], planned: Callable[..., Plan], tmp_path: Path
) -> None:
    """Up to its start: on a CPU, accelerate goes no further with it."""
    overrides = ("parallelism=fsdp2", "gradient_checkpointing=reentrant")
    made = planned(compose(*SMALL, *overrides), tmp_path, device="cuda", precision="bf16_pure")
    ran = subprocess.run(
        [sys.executable, "-c", READ_FSDP, str(made.config_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {
        "version": 2,
        "reshard_after_forward": True,
        "policy": "transformer_auto_wrap_policy",
        # Trainer's own checkpointing, not the plugin's: it draws the same dropout again.
        "plugin_checkpointing": False,
        "checkpointing": True,
    }
