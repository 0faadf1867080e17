"""Read LLMForge's own YAML file into Settings, checked whole; a FileError for the first mistake.

LLMForge's documentation and published files are the source of the fields and their defaults. A field is obeyed, or has no
effect on training and is accepted, or asks for something that this program can't do and is an error: none is silently
ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed_file
import yaml
from deepspeed_file import DeepSpeedFile
from fields import FileError, Kind, names, number, of_type, one_of, read_section, section, whole

FLAG = of_type("true or false", bool)
TEXT = of_type("text", str)
RESOURCES = of_type("resources, such as {memory: 53687091200}", dict)
ANY_COUNT = whole(0)

LORA = {
    "r": whole(1),
    "lora_alpha": number("a number above 0", lambda value: value > 0),
    "lora_dropout": number("a number from 0 to below 1", lambda value: 0 <= value < 1),
    "target_modules": names("names of linear layers, such as [q_proj, v_proj]"),
    "bias": one_of("none", "all", "lora_only"),
    "task_type": one_of("CAUSAL_LM"),
    "modules_to_save": names("names of modules to train in full, such as [embed_tokens], or []"),
    "fan_in_fan_out": FLAG,
    "init_lora_weights": one_of(True, False, "gaussian", "orthogonal", "olora", "pissa"),
}
LIGER_KERNELS = ("rope", "rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy")
OBEYED: dict[str, Kind] = {
    "model_id": TEXT,
    "train_path": TEXT,
    "task": one_of("causal_lm", "instruction_tuning"),
    "context_length": whole(2),
    "num_devices": whole(1),
    "num_epochs": whole(1),
    "min_update_steps": whole(1),
    "train_batch_size_per_device": whole(1),
    "gradient_accumulation_steps": whole(1),
    "gradient_checkpointing": FLAG,
    "no_gradient_checkpoint": FLAG,
    "learning_rate": number("a number above 0, such as 1e-4 for LoRA or 1e-5", lambda value: 0 < value < 1),
    "lr_scheduler_type": one_of("cosine", "linear", "constant"),
    "num_warmup_steps": ANY_COUNT,
    "padding": one_of("longest", "max_length"),
    "deepspeed": section("deepspeed", {"config_path": of_type("the path of a DeepSpeed JSON file", str)}),
    "flash_attention_2": FLAG,
    "liger_kernel": section(
        "liger_kernel",
        {"enabled": FLAG, "kwargs": section("liger_kernel.kwargs", dict.fromkeys(LIGER_KERNELS, FLAG))},
    ),
    "lora_config": section("lora_config", LORA),
}
# Placement, evaluation and saving: nothing is placed on a cluster, evaluated or saved here.
WITHOUT_EFFECT: dict[str, Kind] = {
    "worker_resources": RESOURCES,
    "trainer_resources": RESOURCES,
    "num_data_blocks_per_device": whole(1),
    "dataset_size_scaling_factor": number("a number above 0", lambda value: value > 0),
    "eval_batch_size_per_device": whole(1),
    "eval_first": FLAG,
    "num_checkpoints_to_keep": ANY_COUNT,
    "max_num_checkpoints": ANY_COUNT,
    "checkpoint_every_n_epochs": ANY_COUNT,
    "checkpoint_and_evaluation_frequency": of_type("a unit and a frequency", dict),
    "output_dir": TEXT,
    "model_tag": TEXT,
    "custom_model_tag": TEXT,
}
IMPOSSIBLE = {
    "valid_path": "no such field: nothing is evaluated here",
    "eval_path": "no such field: nothing is evaluated here",
    "preference_tuning_config": "no such field: the tasks here are causal_lm and instruction_tuning",
    "classifier_config": "no such field: the tasks here are causal_lm and instruction_tuning",
    "logger": "no such field: nothing is logged here",
    "generation_config": "no such field: the prompt's format is the chat template of the model's tokenizer",
    "initial_base_model_ckpt_path": "no such field: name the folder of the weights as model_id",
    "initial_adapter_model_ckpt_path": "no such field: a LoRA starts from the base model here",
    "forward_checkpoint_config": "no such field: nothing is saved here",
}
REQUIRED = ("model_id", "train_path", "num_devices", "train_batch_size_per_device", "learning_rate")


@dataclass(frozen=True)
class Settings:
    """The model, the data and the training settings. None: decided by the data."""

    model_id: str
    train_path: Path
    task: str
    context_length: int | None
    num_devices: int
    num_epochs: int | None
    min_update_steps: int
    batch_size: int  # sequences per device and micro-step
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    learning_rate: float
    lr_scheduler_type: str
    num_warmup_steps: int
    padding: str
    deepspeed: DeepSpeedFile | None
    flash_attention_2: bool
    liger: Mapping[str, bool] | None  # for each of LIGER_KERNELS; None: off
    lora: Mapping[str, Any] | None  # fields of peft.LoraConfig; None: every weight is trained


def read(path: Path) -> Settings:
    """Read the settings in the file. Relative paths in it start from the current folder. Raises FileError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError("the file", path, f"a file that can be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError("the file", "", "YAML", place=" ".join(str(error).split())) from error
    impossible = {name: Kind(why, partial(_refuse, name, why)) for name, why in IMPOSSIBLE.items()}
    given = read_section(content, {**OBEYED, **WITHOUT_EFFECT, **impossible})
    for name in REQUIRED:
        if name not in given:
            raise FileError(name, "nothing", OBEYED[name].expected)
    _check_paths(given)
    lora = given.get("lora_config")
    return Settings(
        model_id=given["model_id"],
        train_path=Path(given["train_path"]),
        task=given.get("task", "causal_lm"),
        context_length=given.get("context_length"),
        num_devices=given["num_devices"],
        num_epochs=given.get("num_epochs"),
        min_update_steps=given.get("min_update_steps", 100),
        batch_size=given["train_batch_size_per_device"],
        gradient_accumulation_steps=given.get("gradient_accumulation_steps", 1),
        gradient_checkpointing=_gradient_checkpointing(given),
        learning_rate=given["learning_rate"],
        lr_scheduler_type=given.get("lr_scheduler_type", "cosine"),
        num_warmup_steps=given.get("num_warmup_steps", 10),
        padding=given.get("padding", "longest"),
        deepspeed=_deepspeed(given),
        flash_attention_2=given.get("flash_attention_2", False),
        liger=_liger(given.get("liger_kernel", {}), lora),
        lora=None if lora is None else {**lora, "task_type": "CAUSAL_LM"},
    )


def _refuse(name: str, why: str, given: object) -> None:
    raise FileError(name, given, why)


def _check_paths(given: Mapping[str, Any]) -> None:
    for name in ("model_id", "train_path"):
        if "://" in given[name]:
            raise FileError(name, given[name], "a path on this machine" + (", or a hub id" * (name == "model_id")))
    if given["model_id"].startswith((".", "/", "~")) and not Path(given["model_id"]).is_dir():
        raise FileError("model_id", Path(given["model_id"]), "an existing folder, or a hub id")


def _gradient_checkpointing(given: Mapping[str, Any]) -> bool:
    """True unless switched off, by the field or by its older opposite."""
    on = given.get("gradient_checkpointing", not given.get("no_gradient_checkpoint", False))
    if on == given.get("no_gradient_checkpoint", not on):
        raise FileError(
            "no_gradient_checkpoint",
            given["no_gradient_checkpoint"],
            f"to be left out beside gradient_checkpointing: {on}",
        )
    return on


def _deepspeed(given: Mapping[str, Any]) -> DeepSpeedFile | None:
    if "deepspeed" not in given:
        return None
    if "config_path" not in given["deepspeed"]:
        raise FileError("deepspeed.config_path", "nothing", "the path of a DeepSpeed JSON file")
    return deepspeed_file.read(
        Path(given["deepspeed"]["config_path"]),
        num_devices=given["num_devices"],
        batch_size=given["train_batch_size_per_device"],
        gradient_accumulation_steps=given.get("gradient_accumulation_steps", 1),
    )


def _liger(given: Mapping[str, Any], lora: Mapping[str, Any] | None) -> dict[str, bool] | None:
    """The switch of each kernel, or None if Liger is off.

    LLMForge documents all five as on by default, and Liger takes one cross entropy alone: the fused one, unless the other
    was asked for or the fused one was switched off.
    """
    if not given.get("enabled", False):
        return None
    switches = given.get("kwargs", {})
    fused = switches.get("fused_linear_cross_entropy", not switches.get("cross_entropy", False))
    chosen = {name: switches.get(name, True) for name in LIGER_KERNELS}
    chosen |= {"fused_linear_cross_entropy": fused, "cross_entropy": switches.get("cross_entropy", not fused)}
    field = "liger_kernel.kwargs.fused_linear_cross_entropy"
    if fused and chosen["cross_entropy"]:
        raise FileError(field, True, "false beside cross_entropy: true; Liger takes one of the two")
    if fused and lora is not None and "lm_head" in lora.get("target_modules", []):
        raise FileError(
            field, fused, "false with LoRA on lm_head: the kernel would bypass the LoRA matrices and never train them"
        )
    return chosen
