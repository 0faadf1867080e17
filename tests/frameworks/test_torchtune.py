"""torchtune, as it is installed: what it trained, and that it reads every word of the native config."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from mfubench.config import Experiment
from mfubench.files.paths import LAUNCHERS, ROOT
from mfubench.plan.native import Place, make_plan
from mfubench.plan.plan import Plan
from mfubench.workload import Workload
from mfubench.workload.tokenizer import write_tokenizer

PYTHON = LAUNCHERS / "torchtune" / ".venv" / "bin" / "python"
SMALL = ("framework=torchtune", "sequence_length=64", "model.architecture.num_hidden_layers=1")
ALL_LAYERS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
# Between them, every branch of the YAML: overrides, and the device.
BRANCHES = (
    (("mode=full", "optimizer=adamw_torch"), "cpu"),
    (("mode=full", "gradient_checkpointing=non_reentrant", "optimizer=sgd"), "cpu"),
    (("mode=full", "torch_compile=true", "optimizer=adafactor"), "cpu"),
    (("mode=full", "comparison=defaults", "precision=bf16_pure"), "cuda"),
    (("mode=full", "parallelism=fsdp2", "precision=fp32"), "cuda"),
    (("mode=lora", "comparison=defaults"), "cpu"),
    (("mode=lora", "parallelism=fsdp2", "precision=fp32"), "cuda"),
    (("mode=lora", "mode.target_modules=[q_proj,v_proj]"), "cpu"),
    (("mode=lora", f"mode.target_modules=[{ALL_LAYERS},lm_head]"), "cpu"),
    (("mode=lora", "model=llama-3.2-1b"), "cpu"),
)
# Runs in torchtune's environment. In: [recipe, config] pairs on stdin. Out: the words that nothing there takes.
UNKNOWN_WORDS = r"""
import inspect, json, re, sys
from pathlib import Path
import torchtune
from torchtune.config._utils import _get_component_from_path

def unknown(name, node):
    if isinstance(node, dict) and "_component_" in node:
        component = _get_component_from_path(node["_component_"])
        takes = inspect.signature(component).parameters
        # chat_dataset hands its other words to load_dataset, whose `data_files` is known.
        yield from (f"{name}.{key}" for key in node if key not in {*takes, "_component_", "data_files"})

for recipe, config in json.load(sys.stdin):
    source = (Path(torchtune.__file__).parents[1] / "recipes" / f"{recipe}.py").read_text()
    read = set(re.findall(r"\bcfg\.(?!get\b)(\w+)", source)) | set(re.findall(r'\bcfg\.get\(\s*"(\w+)"', source))
    for key, node in config.items():
        for word in ([key] if key not in read else []) + list(unknown(key, node)):
            print(recipe, word)
"""


def in_torchtune(code: str, given: object) -> str:
    """What `code` prints in torchtune's environment, with our tokenizer, when it reads `given` from stdin as JSON."""
    environment = {**os.environ, "PYTHONPATH": str(LAUNCHERS / "torchtune"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHON, "-c", code], input=json.dumps(given), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def planned(experiment: Experiment, device: str) -> Plan:
    precision = experiment.precision.replace("auto", "fp32")
    place = Place(Path("/runs/1"), LAUNCHERS, ROOT, "/usr/bin/python3", device, precision, 1)
    return make_plan(experiment, Workload("/m", "/m", "/d/m.jsonl", "/d/a.jsonl", 24, None), place)


def test_torchtune_reads_every_word_of_its_configs(compose: Callable[..., Experiment]) -> None:
    """Its recipes pass over a word they don't know, and would run with their default for what it was meant to say."""
    plans = [planned(compose("framework=torchtune", *overrides), device) for overrides, device in BRANCHES]
    configs = [[made.command[made.command.index("--config") - 1], yaml.safe_load(made.config_text)] for made in plans]
    assert {recipe for recipe, _ in configs} == {
        f"{mode}_finetune_{kind}" for mode in ("full", "lora") for kind in ("single_device", "distributed")
    }
    found = set(in_torchtune(UNKNOWN_WORDS, configs).splitlines())
    # The words of one kind of recipe that the other has no use for.
    for recipe, word in (line.split() for line in found):
        assert word in ("optimizer_in_bwd", "save_adapter_weights_only"), (recipe, word)
        assert recipe.startswith("lora" if word == "optimizer_in_bwd" else "full"), (recipe, word)


def test_a_word_that_torchtune_does_not_know_is_found(compose: Callable[..., Experiment]) -> None:
    made = planned(compose("framework=torchtune", "+framework.native={nonsense: 1, model: {layers: 3}}"), "cpu")
    found = in_torchtune(UNKNOWN_WORDS, [["full_finetune_single_device", yaml.safe_load(made.config_text)]])
    assert {"full_finetune_single_device nonsense", "full_finetune_single_device model.layers"} <= set(
        found.splitlines()
    )


def test_its_own_loss_is_left_to_it_where_defaults_are_compared(compose: Callable[..., Experiment]) -> None:
    losses = {
        comparison: yaml.safe_load(
            planned(compose("framework=torchtune", f"comparison={comparison}"), "cpu").config_text
        )["loss"]["_component_"]
        for comparison in ("equal", "defaults")
    }
    assert losses == {
        "equal": "torch.nn.CrossEntropyLoss",
        "defaults": "torchtune.modules.loss.CEWithChunkedOutputLoss",
    }


@pytest.mark.parametrize("padding", ["max_length", "longest"])
def test_our_tokenizer_says_what_the_chat_template_says(tmp_path: Path, padding: str) -> None:
    write_tokenizer(tmp_path)
    turns = [
        {"role": "user", "content": "Which words? baba kiku"},
        {"role": "assistant", "content": "keke bobo, 12 lulu"},
    ]
    code = """
import json, sys
from torchtune.data import Message
from hub_tokenizer import HubTokenizer
folder, padding, turns = json.load(sys.stdin)
for length in (128, 16):
    tokenizer = HubTokenizer(folder, length, padding)
    print(json.dumps(tokenizer.tokenize_messages([Message(**turn) for turn in turns])))
"""
    printed = in_torchtune(code, [str(tmp_path), padding, turns]).splitlines()
    (tokens, mask), (cut, cut_mask) = map(json.loads, printed)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    wanted = reference.apply_chat_template(turns, return_dict=False)
    wanted.append(reference.convert_tokens_to_ids("<|end_of_text|>"))  # torchtune ends a conversation with it
    filled = 128 - len(wanted) if padding == "max_length" else 0
    assert tokens == wanted + [reference.pad_token_id] * filled
    assert mask == [False] * len(wanted) + [True] * filled
    assert cut == wanted[:15] + wanted[-1:]
    assert cut_mask == [False] * 16


@pytest.mark.parametrize(("mode", "trained"), [("full", 12_586_368), ("lora", 217_088)])
def test_torchtune_does_the_work_that_was_asked(
    measured: Callable[..., dict[str, Any]], mode: str, trained: int
) -> None:
    result = measured("framework=torchtune", f"mode={mode}")
    assert (result["status"], result["reason"]) == ("ok", None)
    work, figures = result["work"], result["measurement"]
    assert work["model"] == "TransformerDecoder"
    # With LoRA its optimizer is given the frozen weights too; it must step the others only.
    assert [(each["class"], each["fused"], each["steps"]) for each in work["optimizers"]] == [
        ("AdamW", True, {"float32": trained})
    ]
    assert work["trainable_parameters_with_gradient"] == trained
    assert work["attention"]["sdpa_causal_calls"] == 4  # one a block, none with a mask
    assert (figures["positions_per_step"], figures["trained_tokens_per_step"]) == (512, 512)


def test_its_checkpointing_is_the_non_reentrant_one(measured: Callable[..., dict[str, Any]]) -> None:
    result = measured(*SMALL, "mode=lora", "gradient_checkpointing=non_reentrant", "precision=bf16_pure")
    assert (result["status"], result["reason"]) == ("ok", None)
    assert (result["work"]["recomputation"], sum(result["work"]["recomputed"].values())) == ("non_reentrant", 1)
    assert set(result["work"]["optimizers"][0]["state"]) == {"bfloat16"}


def test_what_it_cannot_do_says_what_runs_instead(measured: Callable[..., dict[str, Any]]) -> None:
    for asked, reason in (
        ("precision=bf16", "precision=bf16_pure and precision=fp32 run"),
        ("gradient_checkpointing=reentrant", "its checkpointing is the non-reentrant one"),
        ("attention=eager", "it supports sdpa"),
        ("parallelism=fsdp2", "its distributed recipes log the device's memory and fail on a CPU"),
    ):
        result = measured("framework=torchtune", asked)
        assert result["status"] == "unsupported"
        assert reason in result["reason"]
