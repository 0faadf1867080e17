"""Measure the writing of random weights to the disk beside transformers' own way to do it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from mfubench.files.paths import CONF

from .figures import Line, run

RUNS = 3
# Llama-3.2-1B with 4 of its 16 layers and a head of its own: 0.77 billion weights, 1.5 GB in bf16. Imports are not timed.
WRITING = """
import json, sys, time
from pathlib import Path
import torch, yaml
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM
import transformers.models.llama.modeling_llama
from mfubench.workload.weights import write_weights
architecture = yaml.safe_load(open(sys.argv[1], encoding="utf-8"))["architecture"]
config = AutoConfig.for_model(**{**architecture, "num_hidden_layers": 4, "tie_word_embeddings": False})
folder = Path(sys.argv[2])
folder.mkdir()
began = time.perf_counter()
%s
print(json.dumps(time.perf_counter() - began))
"""
OURS = WRITING % 'write_weights(folder, "bench", config, "bfloat16", 0, Console(quiet=True))'
THEIRS = WRITING % 'AutoModelForCausalLM.from_config(config, dtype="bfloat16").save_pretrained(folder)'


def random_weights(folder: Path) -> list[Line]:
    """Writing random weights beyond the imports, each time in a process of its own; beside from_config, in turns."""
    pairs = [(_written(OURS, folder), _written(THEIRS, folder)) for _ in range(RUNS)]
    name = "1.5 GB of random weights on the disk"
    return [
        Line(name, "s", [ours for ours, _ in pairs], None),
        Line(f"{name}: from_config(...).save_pretrained(...)", "s", [theirs for _, theirs in pairs], None),
        Line(f"{name}: our time over its, pair by pair", "x", [ours / theirs for ours, theirs in pairs], 0.25),
    ]


def _written(program: str, folder: Path) -> float:
    """Seconds."""
    into = folder / "weights"
    command = [sys.executable, "-c", program, str(CONF / "model" / "llama-3.2-1b.yaml"), str(into)]
    seconds = float(json.loads(run(command, folder).stdout.splitlines()[-1]))
    shutil.rmtree(into)
    return seconds
