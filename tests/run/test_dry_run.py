"""`dry_run=true`: the plan is shown, nothing is started."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mfubench.config import Experiment
from mfubench.launch.programs import responds
from mfubench.plan import prepare

COMMAND = [sys.executable, "-m", "mfubench", "dry_run=true"]


def shown(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *overrides], cwd=folder, capture_output=True, text=True, check=False)


def test_a_dry_run_shows_command_files_flops_and_memory_and_starts_nothing(tmp_path: Path) -> None:
    done = shown(tmp_path, "parallelism=zero2", "framework=llmforge", "gradient_checkpointing=reentrant")
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in tmp_path.rglob("plan.json"))
    assert {path.name for path in folder.iterdir()} == {".hydra", "plan.json", "llmforge.yaml", "deepspeed.json"}
    assert json.loads((folder / "deepspeed.json").read_text())["zero_optimization"]["stage"] == 2
    words = done.stdout
    unquoted = words.replace("'", "")  # of a path with a space
    assert f"finetune.py --weights=disk --seed=0 --nodes=1 {folder / 'llmforge.yaml'}" in unquoted
    assert "framework llmforge (open stack)" in words and f"config_path: {folder / 'deepspeed.json'}" in words
    assert "OMP_NUM_THREADS=" in words and "reduce_bucket_size" in words
    for part in ("model, causal", "HFU's numerator", "weights", "gradients", "optimizer", "activations", "fits"):
        assert part in words, part
    # Embedding and head, four layers (attention, MLP, two norms) and the last norm, 4 bytes each.
    layer = 384 * (384 + 128 + 128 + 384) + 3 * 384 * 1024 + 2 * 384
    mebibytes = round(4 * (2 * 8192 * 384 + 4 * layer + 384) / 2**20)
    assert [f"{mebibytes}", "MiB"] == next(
        line.split()[1:3] for line in words.splitlines() if line.startswith("weights")
    )


def test_a_dry_run_of_what_does_not_fit_says_so_with_its_figures(tmp_path: Path) -> None:
    done = shown(tmp_path, "model=llama-3.1-70b", "hardware.peak_flops_per_second=1e15")
    assert done.returncode == 3
    assert "does not fit" in done.stdout and "262.83 GiB" in done.stdout  # 70,553,706,496 weights of 4 bytes
    assert "unsupported: the weights alone take 263 GiB" in done.stderr


def test_a_gpu_that_is_not_here_is_planned_for_by_its_data_sheet_and_never_asked_for(
    tmp_path: Path, compose: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = ("hardware=h100-sxm", "model=llama-3.2-1b", "mode=lora", "sequence_length=1024")
    done = shown(tmp_path, *planned)
    assert done.returncode == 0, done.stderr
    assert "989.4 TFLOP/s  bf16" in done.stdout and "of 74.51 GiB: fits" in done.stdout  # 80e9 bytes
    (largest,) = re.findall(r"largest batch +(\d+) × 1024", done.stdout)

    def detected(*_: object) -> None:
        raise AssertionError("the device was asked for")

    monkeypatch.setattr(prepare, "detect", detected)

    def needed(batch_size: int) -> int:
        experiment = compose("dry_run=true", *planned, f"batch_size={batch_size}")
        return prepare.expected_memory(prepare.resolve(experiment, responds)).total

    assert needed(int(largest)) <= 80e9 < needed(int(largest) + 1)


def test_a_dry_run_writes_no_weights_and_asks_no_hub(tmp_path: Path) -> None:
    environment = {**os.environ, "MFUBENCH_CACHE": str(tmp_path / "cache"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    argv = [*COMMAND, "data=alpaca", "data.padding=longest"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "cache").rglob("*.safetensors")) and not list((tmp_path / "cache").rglob("*.jsonl"))


def test_a_dry_run_of_what_is_unsupported_gives_the_reason(tmp_path: Path) -> None:
    done = shown(tmp_path, "liger_kernel=true", "hardware=cpu")
    assert done.returncode == 3 and "need a GPU" in done.stderr and done.stdout == ""


@pytest.mark.slow
def test_a_dry_run_of_a_sweep_shows_every_job(tmp_path: Path) -> None:
    done = shown(tmp_path, "-m", "attention=sdpa,eager")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Nothing was started") == 2
