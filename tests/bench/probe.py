"""What the probe costs the process it is in. In: a folder to work in. Out: Lines and a Comparison."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from mfubench.files.paths import CONF
from mfubench.measure.ratio import paired
from mfubench.records.reading import read_records

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
# A tree of 1,800 modules, in matrices so small that a step is short and the probe's part of it shows.
DEEP = {
    "num_hidden_layers": 138,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
DEEP_GOAL_MS = 0.5
GPU = Path("/dev/nvidia0")
# As many modules as 32 layers have, in matrices that keep a GPU busy for longer than the host takes.
GPU_SHAPE = {"num_hidden_layers": 32, "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16}
GPU_OPTIONS = (
    "--architecture",
    json.dumps(GPU_SHAPE),
    "--sequence-length",
    "1024",
    "--checkpointing",
    "--rounds",
    "30",
)
DEEP_OPTIONS = ("--architecture", json.dumps(DEEP), "--sequence-length", "16", "--rounds", "15")


def probe(folder: Path) -> tuple[list[Line], list[Comparison]]:
    """The step time with the probe over that without it, and what the records say that the probe took."""
    tiny_s, tiny_probe_s, rounds = _toggled(folder / "tiny", "--rounds", "50")
    options = ("--architecture", json.dumps(LARGE), "--sequence-length", "512", "--checkpointing", "--rounds", "10")
    _, large_probe_s, _ = _toggled(folder / "large", *options)
    lines = [
        Line("the probe's own time in a step of llama-tiny", "x", [own / tiny_s for own in tiny_probe_s], TINY_SHARE),
        Line("... of a 32-layer model, recomputed", "ms", [own * 1e3 for own in large_probe_s], LARGE_GOAL_MS),
    ]
    made = [_pairs("llama-tiny's steps", rounds)]
    for name, options in (("deep", ()), ("deep, recomputed", ("--checkpointing",))):
        _, own_s, rounds = _toggled(folder / name.replace(", ", "-"), *DEEP_OPTIONS, *options)
        words = f"... of a tree of 1,800 modules{name[4:]}"
        lines.append(Line(words, "ms", [own * 1e3 for own in own_s], DEEP_GOAL_MS))
        apart = [(on - off) * 1e3 for on, off in zip(rounds["on_s"], rounds["off_s"], strict=True)]
        lines.append(Line(f"{words}: steps with it less steps without, pair by pair", "ms", apart, DEEP_GOAL_MS))
        made.append(_pairs(f"steps of a tree of 1,800 modules{name[4:]},", rounds))
    if GPU.exists():  # not yet run on CUDA
        _, _, rounds = _toggled(folder / "gpu", *GPU_OPTIONS, "--device", "cuda")
        made.append(_pairs("a GPU's steps, each waited for,", rounds))
    return lines, made


def _pairs(steps: str, rounds: dict[str, list[float]]) -> Comparison:
    ratio = paired(rounds["off_s"], rounds["on_s"])
    return Comparison(f"{steps} with the probe over without", ratio, (1.0, 1.0 + TINY_SHARE), None)


def _toggled(folder: Path, *options: str) -> tuple[float, list[float], dict[str, list[float]]]:
    """The median step time without the probe, its own time in each step with it, and the step times of the rounds."""
    folder.mkdir()
    command = [sys.executable, str(TOGGLED), str(CONF / "model" / "llama-tiny.yaml"), str(folder)]
    rounds = json.loads(run([*command, "--warmup", f"{WARMUP}", *options], folder).stdout.splitlines()[-1])
    (rank,) = read_records(folder).ranks
    assert not rank.errors, rank.errors
    return median(rounds["off_s"]), list(rank.probe_times_s[WARMUP:]), rounds
