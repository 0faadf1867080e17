"""What the commands take beyond what they start. In: a folder to work in. Out: Lines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from mfubench.config.compose import compose_one
from mfubench.files.paths import CONF
from mfubench.result import write_result

from ..made_results import make_result
from .figures import Line, cpu_seconds, run, seconds

START_RUNS = 7
JOB_RUNS = 3
# Hydra and the same groups, and nothing of mfubench.
BARE = """
import hydra
@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(composed):
    pass
job()
"""
# Results read, and a table's package imported; nothing of mfubench.
BARE_REPORT = """
import json, sys
from pathlib import Path
import rich.console, rich.table, yaml
for file in Path(sys.argv[1]).rglob("result.json"):
    json.loads(file.read_text(encoding="utf-8"))
"""


def start(folder: Path) -> list[Line]:
    """`--help` and `--cfg job` beside those of a program that is nothing but Hydra over the same groups."""
    bare = folder / "bare.py"
    bare.write_text(BARE)
    shutil.copytree(CONF, folder / "conf")
    config = folder / "conf" / "config.yaml"
    types = [line for line in config.read_text().splitlines() if line.strip().startswith("- schema")]
    assert len(types) == 1, "the bare program has no types to compose"
    config.write_text(config.read_text().replace(types[0] + "\n", ""))
    lines = []
    for flags in (["--help"], ["--cfg", "job"]):
        ours, theirs = ["-m", "mfubench", *flags], [str(bare), *flags]
        lines += _beside(" ".join(flags), ours, "a bare Hydra program", theirs, folder, 1.25)
    return lines


def report(folder: Path) -> list[Line]:
    """The report of twelve saved results, two settings of two frameworks and repeats, beside a program that only reads them."""
    bare, saved = folder / "bare_report.py", folder / "saved"
    bare.write_text(BARE_REPORT)
    for number, (framework, mode, repeat) in enumerate(product(("hf_trainer", "llmforge"), ("full", "lora"), range(3))):
        result = make_result(
            name=f"{framework}-{mode}",
            framework=framework,
            status="ok",
            started_at=f"2026-01-01T00:00:{number:02}+00:00",
            settings=asdict(compose_one([f"framework={framework}", f"mode={mode}", f"repeat={repeat}"])),
            hardware={},
            measurement={"step_time_s": 0.2 + 0.001 * number, "ci95": {"step_time_s": [0.19, 0.22]}},
        )
        (saved / str(number)).mkdir(parents=True)
        write_result(result, saved / str(number))
    ours, theirs = ["-m", "mfubench.report", str(saved)], [str(bare), str(saved)]
    return _beside("the report of twelve runs", ours, "a program that only reads them", theirs, folder, None)


def _beside(
    name: str, ours: Sequence[str], other: str, theirs: Sequence[str], folder: Path, goal: float | None
) -> list[Line]:
    """CPU time of two Python programs that take turns, and its ratio pair by pair, which has the goal."""
    commands = [sys.executable, *ours], [sys.executable, *theirs]
    for command in commands:
        run(command, folder)  # the files are in memory from here on
    pairs = [(cpu_seconds(commands[0], folder), cpu_seconds(commands[1], folder)) for _ in range(START_RUNS)]
    return [
        Line(f"{name}: CPU time", "s", [mine for mine, _ in pairs], None),
        Line(f"{name}: that of {other}", "s", [bare_s for _, bare_s in pairs], None),
        Line(f"{name}: one over the other, pair by pair", "x", [mine / bare_s for mine, bare_s in pairs], goal),
    ]


def jobs(folder: Path) -> list[Line]:
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
    wall_s = seconds([*command, *overrides], folder)
    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "ok", result["reason"]
    return wall_s - float(result["outcome"]["wall_s"])
