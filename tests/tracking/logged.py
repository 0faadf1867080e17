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
}
SUMMARY = {
    "status": "ok",
    "warnings": "imprecise, busy_machine",
    "steps": 4,
    "warmup_steps": 2,
    "steady_because": "the first step like the second half",
    "settled": True,
    "drift": 0.01,
    "stopped_because": "sure",
    "device_seconds": 6,
    "rank": 1,
    "step_time_s": 0.25,
    "step_time_s_ci95_low": 0.2,
    "step_time_s_ci95_high": 0.3,
    "relative_half_width": 0.2,
    "data_wait_s": 0.01,
    "forward_to_optimizer_s": 0.2,
    "optimizer_to_forward_s": 0.05,
    "tokens_per_second_per_device": 2048,
    "mfu": 0.2,
    "mfu_ci95_low": 0.16,
    "hfu": 0.3,
    "of_ceiling": 0.4,
    "positions_per_step": 512,
    "peak_memory_bytes": 1_000_000,
    "memory_kind": "resident",
    "profiled_tflop_per_step": 3,
    "model_tflop_per_step": 2,
    "rank_spread": 0.0,
    "step_time_s_median": 0.2,
    "step_time_s_std": 0.0,
    "step_time_s_min": 0.2,
    "step_time_s_max": 0.2,
    "model_tflops_per_second_per_device": 0.0512,
    "hardware_tflops_per_second_per_device": 0.0538,
    "mfu_causal": 0.38,
    "hfu_causal": 0.39,
    "sequence_length_min": 256,
    "sequence_length_mean": 256.0,
    "sequence_length_max": 256,
    "padding_fraction": 0.0,
    "device_0_looks": 3,
    "device_0_cores": 2,
    "device_0_foreign_share": 0.125,
    "device_0_load": 2.5,
}


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
