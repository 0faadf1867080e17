"""What the probe costs the process it is in. In: a folder to work in. Out: Lines and a Comparison."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from mfubench.files.paths import CONF
from mfubench.measure.ratio import paired
from mfubench.records import read_records

from .figures import Comparison, Line, run

TOGGLED = Path(__file__).with_name("toggled.py")
WARMUP = 8  # steps, of which the first few are looked at closely
TINY_SHARE = 0.005
# A large model's modules, tensors and recomputation, in matrices so small that a CPU gets through: what the probe does in a
# step depends on their number alone. A step of Llama 3.1 8B takes some seconds, or one on four GPUs: a thousandth of that.
LARGE = {
    "num_hidden_layers": 32,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 1024,
}
LARGE_GOAL_MS = 1.0


def probe(folder: Path) -> tuple[list[Line], list[Comparison]]:
    """The step time with the probe over that without it, and what the records say that the probe took."""
    tiny_s, tiny_probe_s, rounds = _toggled(folder / "tiny", "--rounds", "50")
    options = ("--architecture", json.dumps(LARGE), "--sequence-length", "512", "--checkpointing", "--rounds", "10")
    _, large_probe_s, _ = _toggled(folder / "large", *options)
    lines = [
        Line("the probe's own time in a step of llama-tiny", "x", [own / tiny_s for own in tiny_probe_s], TINY_SHARE),
        Line("... of a 32-layer model, recomputed", "ms", [own * 1e3 for own in large_probe_s], LARGE_GOAL_MS),
    ]
    ratio = paired(rounds["off_s"], rounds["on_s"])
    return lines, [Comparison("llama-tiny's steps with the probe over without", ratio, (1.0, 1.0 + TINY_SHARE), None)]


def _toggled(folder: Path, *options: str) -> tuple[float, list[float], dict[str, list[float]]]:
    """The median step time without the probe, its own time in each step with it, and the step times of the rounds."""
    folder.mkdir()
    command = [sys.executable, str(TOGGLED), str(CONF / "model" / "llama-tiny.yaml"), str(folder)]
    rounds = json.loads(run([*command, "--warmup", f"{WARMUP}", *options], folder).stdout.splitlines()[-1])
    (rank,) = read_records(folder).ranks
    assert not rank.errors, rank.errors
    return median(rounds["off_s"]), list(rank.probe_times_s[WARMUP:]), rounds
