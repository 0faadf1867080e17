"""launchers/hf_trainer with conf/framework/hf_trainer.yaml: what the settings say is what the training does.

Each case is composed from the real conf/, started by its plan's command, and watched from inside by tests/trainers/watched.py.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from architectures import MODELS

from mfubench import workload
from mfubench.config import Experiment
from mfubench.files.paths import LAUNCHERS, ROOT
from mfubench.plan.native import EXTRA_STEPS, Place, make_plan
from mfubench.plan.plan import Plan

TRAIN = LAUNCHERS / "hf_trainer" / "train.py"
WATCHED = Path(__file__).parents[1] / "trainers" / "watched.py"
STEPS = 6
# 2 layers of 7 linear layers, and the head.
LINEARS = 2 * 7 + 1
SHAPE = (
    "hidden_size=32",
    "intermediate_size=48",
    "num_hidden_layers=2",
    "num_attention_heads=4",
    "num_key_value_heads=2",
)
OVERRIDES = (
    *(f"model.architecture.{setting}" for setting in SHAPE),
    "sequence_length=32",
    "measurement.warmup_steps=1",
    f"measurement.steps={STEPS - 1 - EXTRA_STEPS}",
    "measurement.profile_steps=0",
)


@pytest.fixture
def trained(
    compose: Callable[..., Experiment], planned: Callable[..., Plan], tmp_path: Path
) -> Callable[..., list[dict[str, Any]]]:
    """Overrides in; what was seen at each optimizer step out, of all ranks together."""

    def train(*overrides: str, precision: str = "fp32") -> list[dict[str, Any]]:
        experiment = compose(*OVERRIDES, f"precision={precision}", *overrides)
        made = planned(experiment, tmp_path, precision=precision)
        return watched(made.command, tmp_path, made.environment)

    return train


def watched(command: tuple[str, ...], folder: Path, environment: Any) -> list[dict[str, Any]]:
    """Run a command that starts the launcher, and return what was noted, rank after rank."""
    home = folder / "home"
    home.mkdir()
    at = command.index(str(TRAIN))
    ran = subprocess.run(
        [*command[:at], str(WATCHED), *command[at:]],
        cwd=folder,
        env={**os.environ, **environment, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not list(home.rglob("*.arrow"))  # the samples' cache is in the run's scratch folder, not the user's home
    return [json.loads(line) for path in sorted(folder.glob("seen*.jsonl")) for line in path.read_text().splitlines()]


def test_full_trains_every_weight_in_float32_on_full_sequences(trained: Callable[..., list[dict[str, Any]]]) -> None:
    seen = trained("gradient_accumulation_steps=2")
    assert len(seen) == STEPS
    # embedding and head 2 · 8192·32; by layer q and o 2 · 32·32, k and v 2 · 32·16, MLP 3 · 32·48; 5 norms of 32
    weights = 2 * 8192 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48) + 5 * 32
    assert {step["parameters"] for step in seen} == {weights}
    assert {step["tensors"] for step in seen} == {step["with_gradient"] for step in seen} == {2 + 2 * 9 + 1}
    assert all(step["dtypes"] == step["outputs"] == ["torch.float32"] for step in seen)
    assert all(step["roots"] == [[2, 32], [2, 32]] for step in seen)
    assert all(step["linears"] == 2 * LINEARS and step["without_graph"] == 0 for step in seen)  # nothing twice
    assert len({step["sum"] for step in seen}) == STEPS  # each step moved the weights


def test_reentrant_checkpointing_keeps_the_gradients_of_lora_beside_frozen_bf16_weights(
    trained: Callable[..., list[dict[str, Any]]],
) -> None:
    seen = trained("mode=lora", "gradient_checkpointing=reentrant", precision="bf16")
    # rank 8 · (inputs + outputs): q, o 32+32; k, v 32+16; gate, up 32+48, down 48+32; two layers
    assert {step["parameters"] for step in seen} == {2 * 8 * (2 * 64 + 2 * 48 + 3 * 80)}
    assert {step["tensors"] for step in seen} == {2 * 7 * 2}
    assert seen[0]["with_gradient"] == 2 * 7  # B is zero at first, so A's gradients are too
    assert all(step["with_gradient"] == 2 * 7 * 2 for step in seen[1:])
    assert all(step["dtypes"] == ["torch.float32"] and step["outputs"] == ["torch.bfloat16"] for step in seen)
    # In each block 7 frozen layers and 14 matrices: forward without a graph, then recomputed with one; the head once.
    assert all(step["without_graph"] == 2 * 21 and step["linears"] == 2 * 2 * 21 + 1 for step in seen)


def test_bf16_full_autocasts_from_float32_masters_that_were_loaded_from_the_disk(
    trained: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    seen = trained("gradient_checkpointing=non_reentrant", precision="bf16")
    assert all(step["dtypes"] == ["torch.float32"] and step["outputs"] == ["torch.bfloat16"] for step in seen)
    native = yaml.safe_load((tmp_path / "hf_trainer.yaml").read_text())
    on_disk = load_file(Path(native["model_name_or_path"]) / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in on_disk.values())
    values = torch.cat([weight.flatten() for weight in on_disk.values()]).sort().values
    assert seen[0]["digest"] == sha256(values.numpy().tobytes()).hexdigest()  # each value, before the first step
    # Recomputed with a graph: the non-reentrant kind.
    assert all(step["without_graph"] == 0 and step["linears"] == LINEARS + 2 * 7 for step in seen)


@pytest.mark.slow
def test_bf16_pure_holds_the_lora_matrices_in_bf16_too(trained: Callable[..., list[dict[str, Any]]]) -> None:
    seen = trained("mode=lora", precision="bf16_pure")
    assert all(step["dtypes"] == step["outputs"] == ["torch.bfloat16"] for step in seen)
    assert all(step["with_gradient"] == 28 for step in seen[1:])


@pytest.mark.sample(2)
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "float32"), ("bf16_pure", "bfloat16")])
def test_qlora_trains_the_matrices_beside_layers_that_are_no_longer_torchs(
    trained: Callable[..., list[dict[str, Any]]], precision: str, dtype: str
) -> None:
    seen = trained("mode=qlora", "gradient_checkpointing=reentrant", precision=precision)
    # Rank 8: beside 2 layers of q and o, k and v, and the three of the MLP.
    assert {step["parameters"] for step in seen} == {2 * 8 * (2 * 64 + 2 * 48 + 3 * 80)}
    assert all(step["dtypes"] == [f"torch.{dtype}"] and step["outputs"] == ["torch.bfloat16"] for step in seen)
    assert all(step["with_gradient"] == 28 for step in seen[1:])
    # Two matrices a layer, without a graph first, and the head.
    assert all((step["linears"], step["without_graph"]) == (2 * 28 + 1, 28) for step in seen)
    assert len({step["sum"] for step in seen}) == STEPS


@pytest.mark.parametrize("tied", [False, True])
def test_random_weights_in_4_bits_are_drawn_as_those_in_16_are(tied: bool) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from transformers import BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(**sizes, num_hidden_layers=2, vocab_size=512, initializer_range=0.05, tie_word_embeddings=tied)
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    options = {"dtype": "bfloat16", "quantization_config": four_bit, "device_map": {"": torch.device("cpu")}}
    model = launcher().random_4bit_model(config, torch.device("cpu"), options)
    reference = dict(Qwen2ForCausalLM(config).named_parameters())
    drawn = dict(model.named_parameters())
    assert list(drawn) == list(reference)
    for name, parameter in drawn.items():
        packed = hasattr(parameter, "quant_state")
        assert packed == (name.endswith("proj.weight")), name
        values = dequantize_4bit(parameter.data, parameter.quant_state) if packed else parameter.data
        assert (values.shape, values.dtype) == (reference[name].shape, torch.bfloat16)
        assert values.float().mean().item() == pytest.approx(reference[name].mean().item(), abs=0.005)
        assert values.float().std().item() == pytest.approx(reference[name].std().item(), rel=0.1)
    assert tied == (model.lm_head.weight is model.model.embed_tokens.weight)


@pytest.mark.slow
def test_two_ranks_step_with_the_same_averaged_gradient(trained: Callable[..., list[dict[str, Any]]]) -> None:
    seen = trained("parallelism=ddp", "optimizer=adamw_torch", "attention=eager")
    first, second = seen[:STEPS], seen[STEPS:]
    assert len(second) == STEPS
    for one, other in zip(first, second, strict=True):
        assert one["tokens"] != other["tokens"]  # each rank has samples of its own
        assert one["gradient"] == other["gradient"] != 0
        assert one["sum"] == other["sum"]


def launcher() -> SimpleNamespace:
    """The launcher's functions, without running it."""
    return SimpleNamespace(**runpy.run_path(str(TRAIN)))


def test_a_key_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    native = {
        "model_name_or_path": "m",
        "train_file": "t",
        "max_length": 8,
        "output_dir": str(tmp_path),
        "use_cpu": True,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**native, "learning_rat": 0.1}))
    with pytest.raises(ValueError, match="learning_rat"):
        launcher().main(str(tmp_path / "config.yaml"))


def tokenizer_with(folder: Path, *contents: str) -> Any:
    """mfubench's tokenizer, and in the folder a train.jsonl of one question per content."""
    from transformers import AutoTokenizer

    workload.tokenizer.write_tokenizer(folder)
    samples = [{"messages": [{"role": "user", "content": content}]} for content in contents]
    (folder / "train.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return AutoTokenizer.from_pretrained(folder)


def test_a_short_sample_is_padded_and_its_padding_is_not_trained_on(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "ba", "ba " * 50)
    functions = launcher()
    data = functions.DataArguments(train_file=str(tmp_path / "train.jsonl"), max_length=32)
    short, long = list(functions.tokenized(tokenizer, data, tmp_path / "cache"))
    question = [{"role": "user", "content": "ba"}]
    encoded: Any = tokenizer.apply_chat_template(question, tokenize=True, return_dict=True)
    real = len(encoded["input_ids"])
    assert real < 32 == len(short["input_ids"]) == len(long["input_ids"])
    assert short["labels"] == short["input_ids"][:real] + [-100] * (32 - real)
    assert short["input_ids"][real:] == [tokenizer.pad_token_id] * (32 - real)
    assert long["labels"] == long["input_ids"] and sum(long["attention_mask"]) == 32


def test_padding_to_the_longest_is_as_long_as_the_micro_batch_needs(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "ba", "ba " * 3, "ba " * 50)
    functions = launcher()
    data = functions.DataArguments(train_file=str(tmp_path / "train.jsonl"), max_length=32, padding="longest")
    short, longer, cut = list(functions.tokenized(tokenizer, data, tmp_path / "cache"))
    real, most = len(short["input_ids"]), len(longer["input_ids"])
    assert real < most < 32 == len(cut["input_ids"])
    batch = functions.DataCollatorForSeq2Seq(tokenizer)([short, longer])
    assert [list(batch[name].shape) for name in ("input_ids", "attention_mask", "labels")] == [[2, most]] * 3
    padding = most - real
    assert batch["labels"][0].tolist() == short["input_ids"] + [-100] * padding
    assert batch["attention_mask"][0].tolist() == [1] * real + [0] * padding
    assert batch["labels"][1].tolist() == batch["input_ids"][1].tolist() == longer["input_ids"]


def test_a_padding_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="padding is 'shortest'; expected max_length or longest"):
        launcher().DataArguments(train_file="t", max_length=8, padding="shortest")


def test_a_sample_that_the_chat_template_refuses_is_named_by_its_line(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "ba", "ba", "be")
    tokenizer.chat_template = "{{ raise_exception('no be') if messages[0].content == 'be' else 'ba' }}"
    functions = launcher()
    data = functions.DataArguments(train_file=str(tmp_path / "train.jsonl"), max_length=8)
    with pytest.raises(ValueError, match=r"train\.jsonl, line 3: .* can't render it: no be"):
        functions.tokenized(tokenizer, data, tmp_path / "cache")


def test_real_samples_are_read_in_the_order_of_the_file_and_padded_by_micro_batch(
    trained: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    # A question of n words in the tokenizer's template; two to a micro-batch, and 5 samples in turn.
    lengths = [1, 9, 3, 2, 6]
    rows = [{"messages": [{"role": "user", "content": " ".join(["ba"] * words)}]} for words in lengths]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = trained("data=jsonl", f"data.path={tmp_path / 'mine.jsonl'}", "sequence_length=64")
    in_turn = [lengths[i % 5] for i in range(2 * STEPS)]
    longest = [max(in_turn[2 * step : 2 * step + 2]) for step in range(STEPS)]
    shapes = [step["roots"][0] for step in seen]
    around = shapes[0][1] - longest[0]  # what the template adds to the words
    assert shapes == [[2, around + words] for words in longest]


@pytest.mark.parametrize(("model", "unit"), [("llama-tiny", "swiglu"), ("qwen3-8b", "swiglu"), ("gemma-2-9b", "geglu")])
def test_ligers_switches_reach_it_in_the_words_of_the_model(
    compose: Callable[..., Experiment], tmp_path: Path, model: str, unit: str
) -> None:
    switches = ("liger.rope=false", "liger.swiglu=false", "liger.cross_entropy=true")
    native = native_of(
        compose(f"model={model}", "liger_kernel=true", *switches, "liger.fused_linear_cross_entropy=false"), tmp_path
    )
    assert native["use_liger_kernel"] is True
    assert native["liger_kernel_config"] == {
        "rope": False,
        "rms_norm": True,
        "cross_entropy": True,
        "fused_linear_cross_entropy": False,
        unit: False,
    }


def test_liger_knows_every_switch_of_every_model_that_is_supported(
    compose: Callable[..., Experiment], tmp_path: Path
) -> None:
    import inspect

    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    for model in MODELS:
        experiment = compose(f"model={model}", "liger_kernel=true")
        config = native_of(experiment, tmp_path)["liger_kernel_config"]
        patch = MODEL_TYPE_TO_APPLY_LIGER_FN[experiment.model.architecture["model_type"]]
        assert set(config) == set(inspect.signature(patch).parameters) - {"model"}, model


def native_of(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """The native config of a run on a GPU."""
    place = Place(folder, LAUNCHERS, ROOT, sys.executable, "cuda", "bf16", 1)
    files = workload.Workload("m", "t", "messages.jsonl", "alpaca.jsonl", 74, None)
    return yaml.safe_load(make_plan(experiment, files, place).config_text)
