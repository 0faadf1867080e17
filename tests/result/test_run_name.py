"""The name of a run, by which W&B tells the jobs of a sweep apart: real command lines, whose runs this machine can't start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "mfubench", "attention=flash_attention_2", "hardware=cpu", "tracking=none"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["mode=lora", "repeat=3"], ["hf_trainer-llama-tiny-lora"]),
        (
            ["-m", "mode=lora", "mode.rank=4,16", "batch_size=2", "+framework.native.optim='a b',c"],
            [f"hf_trainer-llama-tiny-lora-rank{rank}-optim-{optim}" for rank in (4, 16) for optim in ("a b", "c")],
        ),
        (
            ["experiment=batch-size", "batch_size=4", "repeat=range(2)"],
            ["hf_trainer-llama-tiny-full-repeat0", "hf_trainer-llama-tiny-full-repeat1"],
        ),
        (
            ["experiment=liger"],
            [f"hf_trainer-llama-tiny-full-liger_kernel-{on}" for on in ("False", "True")],
        ),
    ],
)
def test_a_run_is_named_by_framework_model_mode_and_what_its_sweep_varies(
    tmp_path: Path, arguments: list[str], names: list[str]
) -> None:
    done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert sorted(json.loads(path.read_text())["name"] for path in tmp_path.rglob("result.json")) == sorted(names)
