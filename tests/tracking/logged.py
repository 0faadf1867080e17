"""What the tests of tracking share: a run is logged, then read back with W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mfubench.config import Tracking
from mfubench.result import Result

LOG = """
import sys
from pathlib import Path
from mfubench.config import Tracking
from mfubench.result import read_result
from mfubench.tracking import track
folder = Path(sys.argv[1])
sys.exit(track(read_result(folder / "result.json"), Tracking("wandb", sys.argv[2], "mfubench", None), folder))
"""
Made = Callable[..., tuple[Result, Path]]
HISTORY = {
    "step": [1, 2, 3, 4, 5, 6],
    "warmup": [1, 1, 0, 0, 0, 0],
    "step_time_s": [1.0, 0.5, 0.25, 0.2, 0.3, 0.25],
    "tokens_per_second_per_device": [512, 1024, 2048, 2560, 512 / 0.3, 2048],
    "mfu": [0.05, 0.1, 0.2, 0.25, 1 / 6, 0.2],
    "hfu": [0.075, 0.15, 0.3, 0.375, 0.25, 0.3],
    "model_tflops_per_second_per_device": [2, 4, 8, 10, 2 / 0.3, 8],
    "hardware_tflops_per_second_per_device": [3, 6, 12, 15, 10, 12],
    "profiled_tflop": [3, 3, 3, 3, 3, 3],
}
SUMMARY = {
    "status": "ok",
    "warnings": "imprecise, busy_machine",
    "step_time_s": 0.25,
    "tokens_per_second_per_device": 2048,
    "mfu": 0.2,
    "mfu_causal": 0.38,
    "hfu": 0.3,
    "hfu_causal": 0.39,
    "model_tflops_per_second_per_device": 0.0512,
    "hardware_tflops_per_second_per_device": 0.0538,
    "of_ceiling": 0.4,
    "padding_fraction": 0.0,
    "peak_memory_bytes": 1_000_000,
    "profiled_tflop_per_step": 3,
    "model_tflop_per_step": 2,
    "ci95/step_time_s_low": 0.2,
    "ci95/step_time_s_high": 0.3,
    "ci95/mfu_low": 0.16,
    "counts/steps": 4,
    "counts/warmup_steps": 2,
    "counts/positions_per_step": 512,
    "counts/sequence_length_min": 256,
    "counts/sequence_length_mean": 256.0,
    "counts/sequence_length_max": 256,
    "counts/trainable_parameters": 12_586_368,
    "measured/steady_because": "the first step like the second half",
    "measured/settled": True,
    "measured/drift": 0.01,
    "measured/stopped_because": "sure",
    "measured/device_seconds": 6,
    "measured/device_seconds_before_first_step": 3.0,
    "measured/device_seconds_warmup": 0.5,
    "measured/device_seconds_measured": 1.0,
    "measured/device_seconds_after": 1.5,
    "measured/process": 1,
    "measured/process_spread": 0.0,
    "measured/step_time_s_median": 0.2,
    "measured/step_time_s_std": 0.0,
    "measured/step_time_s_min": 0.2,
    "measured/step_time_s_max": 0.2,
    "measured/relative_half_width": 0.2,
    "measured/data_wait_s": 0.01,
    "measured/forward_to_optimizer_s": 0.2,
    "measured/optimizer_to_forward_s": 0.05,
    "measured/memory_kind": "resident",
    "machine/0/looks": 3,
    "machine/0/cores": 2,
    "machine/0/foreign_share": 0.125,
    "machine/0/load": 2.5,
}
CONFIG = {
    "framework": {"name": "some_trainer", "label": "some_trainer"},
    "model": {"name": "llama-tiny", "weights": "random", "architecture": {"hidden_size": 64}},
    "mode": {"name": "lora", "rank": 8},
    "parallelism": {"name": "ddp", "num_devices": 2},
    "gradient_checkpointing": {"name": "none"},
    "data": {"name": "synthetic"},
    "measurement": {"name": "quick"},
    "hardware": {
        "device": "cpu",
        "device_name": "Some CPU",
        "num_devices": 2,
        "peak_flops_per_second": 4e13,
        "peak_dtype": "fp32",
        "peak_measured": False,
    },
    "batch_size": 2,
    "precision": "fp32",
    "attention": "sdpa",
    "liger_kernel": True,
    "liger": ["rope"],
    "comparison": "equal",
    "repeat": 3,
    "versions": {"mfubench": "0.1.0", "some-trainer": "1.2", "torch": "2.13.0"},
    "commit": "abc",
    "started_at": "2026-01-02T03:04:05+00:00",
    "native": {"batch": 2, "lr": 1e-05},
}
TAGS = ["some_trainer", "llama-tiny", "lora", "ok", "imprecise", "busy_machine", "mode.rank=8", "batch_size=2"]
STARTED = 1767323045.0  # as Unix seconds


def to(mode: str) -> Tracking:
    return Tracking("wandb", mode, project="mfubench", entity=None)


def offline_file(folder: Path) -> Path:
    [file] = (folder / "wandb").glob("offline-run-*/*.wandb")
    return file


def inspect(file: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=file.parent).stdout


def records(file: Path, kind: str) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in inspect(file).splitlines())
    return [record[kind] for record in found if record["type"] == kind]


def own(figures: dict[str, Any]) -> dict[str, Any]:
    """Without the client's own (_step, _runtime, ...)."""
    return {name: figure for name, figure in figures.items() if not name.startswith("_")}


def columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: pytest.approx([row[name] for row in rows]) for name in own(rows[0])}


def leaves(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every scalar in a tree of JSON, by its path."""
    if isinstance(tree, Mapping):
        for key, inner in tree.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for index, inner in enumerate(tree):
            yield from leaves(inner, (*path, index))
    else:
        yield path, tree
