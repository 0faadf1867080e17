"""Read the DeepSpeed file named by an LLMForge file, and fill in the LLMForge file's batch sizes and clipping.

Raises FileError if the file can't be used or contradicts the LLMForge file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fields import FileError

FIELD = "deepspeed.config_path"
AUTO = "auto"
CLIPPING = 1.0  # Accelerate's value for "auto"


@dataclass(frozen=True)
class DeepSpeedFile:
    """DeepSpeed's own configuration; values that depend on the model may still be "auto"."""

    content: Mapping[str, Any]
    stage: int  # of ZeRO, 0 to 3
    bf16: bool | None  # weights and activations in bf16; None: if the device is a GPU


def read(path: Path, *, num_devices: int, batch_size: int, gradient_accumulation_steps: int) -> DeepSpeedFile:
    """Read the file at `path` and fill in its batch sizes and clipping. Raises FileError."""
    content = _json(path)
    stage = _section(path, content, "zero_optimization").get("stage")
    if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
        raise _error(path, "zero_optimization.stage", stage, "0, 1, 2 or 3")
    for name in ("optimizer", "scheduler"):
        if name in content:
            raise _error(path, name, content[name], "no such section: the learning rate is set in the LLMForge file")
    sizes = {
        "train_micro_batch_size_per_gpu": ("train_batch_size_per_device", batch_size),
        "gradient_accumulation_steps": ("gradient_accumulation_steps", gradient_accumulation_steps),
        "train_batch_size": ("the product of all three", num_devices * batch_size * gradient_accumulation_steps),
    }
    for name, (source, size) in sizes.items():
        if content.get(name, AUTO) not in (AUTO, size):
            raise _error(path, name, content[name], f"{AUTO}, or {size} as in the LLMForge file: {source}")
    filled = {**content, **{name: size for name, (_, size) in sizes.items()}}
    if content.get("gradient_clipping") == AUTO:
        filled["gradient_clipping"] = CLIPPING
    return DeepSpeedFile(filled, stage, _bf16(path, content, stage))


def _bf16(path: Path, content: Mapping[str, Any], stage: int) -> bool | None:
    if _section(path, content, "fp16").get("enabled", False) not in (False, AUTO):
        raise _error(
            path, "fp16.enabled", content["fp16"]["enabled"], "false; set bf16.enabled instead, or neither for fp32"
        )
    section = _section(path, content, "bf16")
    enabled = section.get("enabled", False)
    if enabled not in (True, False, AUTO):
        raise _error(path, "bf16.enabled", enabled, f"true, false or {AUTO}")
    needed_by = {"bf16_optimizer_states": "bf16_master_weights_and_grads", "bf16_master_weights_and_grads": "enabled"}
    for name, needs in needed_by.items():
        if section.get(name, False) and not section.get(needs, False):
            raise _error(path, f"bf16.{name}", section[name], f"false, or bf16.{needs}: true beside it")
    if section.get("bf16_master_weights_and_grads", False) and stage == 0:
        raise _error(path, "bf16.bf16_master_weights_and_grads", True, "false at ZeRO stage 0, or stage 1, 2 or 3")
    return None if enabled == AUTO else enabled


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(FIELD, path, f"a file that can be read ({error.strerror})") from error
    except ValueError as error:
        raise FileError(FIELD, "", "JSON", place=f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise FileError(FIELD, content, 'a JSON object, such as {"zero_optimization": {"stage": 2}}', place=f"{path}: ")
    return content


def _section(path: Path, content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name, {})
    if not isinstance(section, dict):
        raise _error(path, name, section, "an object")
    return section


def _error(path: Path, name: str, given: object, expected: str) -> FileError:
    return FileError(FIELD, json.dumps(given), expected, place=f"{path} with {name}: ")
