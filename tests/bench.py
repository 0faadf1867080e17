"""What mfubench itself costs: `make bench`. In: nothing. Out: a table of figures beside their goals; no test, so it ends with 0.

Everything is measured in one run, in fresh processes, and what is compared takes turns, so that a machine whose speed
drifts slows both sides alike.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from mfubench.paths import CONF, ROOT

HELP_RUNS = 7
JOB_RUNS = 3
COUNT_RUNS = 3
# Hydra and the same groups, and nothing of mfubench.
BARE = """
import hydra
@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(composed):
    pass
job()
"""
# Imports come first and are not timed: whoever counts has torch and transformers to import in any case. Memory is all of it.
COUNTING = """
import json, resource, sys, time, warnings
import yaml
import peft, torch, torch.utils.flop_counter, transformers
import transformers.models.llama.modeling_llama
import mfubench.probe.formulas
from mfubench.config import Mode
from mfubench.flops import count
file, mode, recomputation = sys.argv[1:]
targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
lora = {"rank": 8, "alpha": 16, "dropout": 0.05, "target_modules": targets} if mode == "lora" else {}
architecture = yaml.safe_load(open(file, encoding="utf-8"))["architecture"]
def measured():
    %s
began = time.perf_counter()
measured()
print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))
"""
OURS = COUNTING % (
    "count(architecture, Mode(name=mode, **lora), recomputation=recomputation, attention='sdpa', "
    "batch_size=2, sequence_length=2048)"
)
# PyTorch's counter used plainly: the whole model on the meta device, every block of it traced.
PLAINLY = (
    COUNTING
    % """
    warnings.simplefilter("ignore")
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(**architecture)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        if lora:
            model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=targets), autocast_adapter_dtype=False)
        ids = torch.empty(2, 2048, dtype=torch.long)
        mask = torch.empty(1, 1, 2048, 2048, dtype=torch.bfloat16)  # made outside: making one looks at values
        places = torch.arange(2048).expand(2, -1)
    if recomputation != "none":
        model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
        model.enable_input_require_grads()
    given = {"input_ids": ids, "labels": ids, "attention_mask": mask, "position_ids": places, "use_cache": False}
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        model.train()(**given).loss.backward()
"""
)


@dataclass(frozen=True)
class Line:
    """A figure measured several times, and the most that it should be; None: it has no goal."""

    what: str
    unit: str
    values: Sequence[float]
    goal: float | None


def main() -> None:
    """Measure, and print the table."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="mfubench-bench-") as folder:
        # Nothing of the user's own is read or written, and nothing is uploaded.
        os.environ |= {"MFUBENCH_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
        os.environ["MFUBENCH_LOCAL"] = "none"
        lines: list[Line] = []
        for measured in (_help, _counting, _jobs):
            with console.status(f"measuring {measured.__name__.strip('_')}"):
                lines += measured(Path(folder))
    console.print(_table(lines))


def _help(folder: Path) -> list[Line]:
    """`--help` beside that of a program that is nothing but Hydra over the same groups."""
    bare = folder / "bare.py"
    bare.write_text(BARE)
    shutil.copytree(CONF, folder / "conf")
    config = folder / "conf" / "config.yaml"
    types = [line for line in config.read_text().splitlines() if line.strip().startswith("- schema")]
    assert len(types) == 1, "the bare program has no types to compose"
    config.write_text(config.read_text().replace(types[0] + "\n", ""))
    ours, theirs = [sys.executable, "-m", "mfubench", "--help"], [sys.executable, str(bare), "--help"]
    for command in (ours, theirs):
        _run(command, folder)  # the files are in memory from here on
    pairs = [(_seconds(ours, folder), _seconds(theirs, folder)) for _ in range(HELP_RUNS)]
    return [
        Line("--help", "s", [mine for mine, _ in pairs], None),
        Line("--help of a bare Hydra program", "s", [bare_s for _, bare_s in pairs], None),
        Line("--help over the bare program's, pair by pair", "x", [mine / bare_s for mine, bare_s in pairs], 1.25),
    ]


def _counting(folder: Path) -> list[Line]:
    """Counting 2 x 2048 tokens beyond the imports, each time in a process of its own; beside PyTorch's counter, in turns."""
    cases = [
        ("llama-3.1-8b", "full", "none", 1.0),
        ("llama-3.1-8b", "full", "reentrant", 1.0),
        ("llama-3.1-8b", "lora", "reentrant", 1.0),
        ("llama-3.1-405b", "lora", "reentrant", 3.0),
    ]
    lines = []
    for model, mode, recomputation, goal in cases:
        arguments = [str(CONF / "model" / f"{model}.yaml"), mode, recomputation]
        pairs = [(_counted(OURS, arguments, folder), _counted(PLAINLY, arguments, folder)) for _ in range(COUNT_RUNS)]
        name = f"counting {model}, {mode}, {recomputation}"
        lines += [
            Line(name, "s", [ours[0] for ours, _ in pairs], goal),
            Line(f"{name}: peak memory", "MB", [ours[1] for ours, _ in pairs], 600.0),
            Line(f"{name}: PyTorch's counter on the whole model", "s", [plain[0] for _, plain in pairs], None),
            Line(f"{name}: its peak memory", "MB", [plain[1] for _, plain in pairs], None),
            Line(f"{name}: its time over ours, pair by pair", "x", [p[0] / ours[0] for ours, p in pairs], None),
        ]
    return lines


def _counted(program: str, arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and the peak of the memory in MB."""
    seconds, megabytes = json.loads(_run([sys.executable, "-c", program, *arguments], folder).stdout.splitlines()[-1])
    return seconds, megabytes


def _jobs(folder: Path) -> list[Line]:
    """What a real job takes beyond the trainer's own process, its FLOPs already in the cache."""
    given = "hardware.peak_flops_per_second=1e12"
    cases = [
        ("own time of a job", [given], 2.0),
        ("own time of a job, W&B left out", [given, "tracking=none"], None),
        ("own time of a job, the CPU's peak measured", [], None),
    ]
    _own_seconds(folder, "warm", [given])
    runs = [[_own_seconds(folder, f"{n}-{i}", case[1]) for i, case in enumerate(cases)] for n in range(JOB_RUNS)]
    columns = zip(*runs, strict=True)
    return [Line(what, "s", seen, goal) for (what, _, goal), seen in zip(cases, columns, strict=True)]


def _own_seconds(folder: Path, name: str, overrides: Sequence[str]) -> float:
    run_folder = folder / "runs" / name
    command = [sys.executable, "-m", "mfubench", "measurement=quick", "hardware=cpu", f"hydra.run.dir={run_folder}"]
    wall_s = _seconds([*command, *overrides], folder)
    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "ok", result["reason"]
    return wall_s - float(result["outcome"]["wall_s"])


def _seconds(command: Sequence[str], folder: Path) -> float:
    began = time.perf_counter()
    _run(command, folder)
    return time.perf_counter() - began


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The finished command; CalledProcessError, its output shown, where it can't run."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    done.check_returncode()
    return done


def _table(lines: Sequence[Line]) -> Table:
    table = Table("", "median", "least", "most", "goal", "", title="what mfubench itself costs")
    for line in lines:
        middle = median(line.values)
        met = "" if line.goal is None else "[green]met[/]" if middle <= line.goal else "[red]not met[/]"
        figures = [f"{value:.3g} {line.unit}" for value in (middle, min(line.values), max(line.values))]
        table.add_row(line.what, *figures, "" if line.goal is None else f"≤ {line.goal:g} {line.unit}", met)
    return table


if __name__ == "__main__":
    main()
