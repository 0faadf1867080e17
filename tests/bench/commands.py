"""What the commands take beyond what they start. In: a folder to work in. Out: Lines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mfubench.files.paths import CONF

from .figures import Line, run, seconds

HELP_RUNS = 7
JOB_RUNS = 3
# Hydra and the same groups, and nothing of mfubench.
BARE = """
import hydra
@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(composed):
    pass
job()
"""


def help_page(folder: Path) -> list[Line]:
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
        run(command, folder)  # the files are in memory from here on
    pairs = [(seconds(ours, folder), seconds(theirs, folder)) for _ in range(HELP_RUNS)]
    return [
        Line("--help", "s", [mine for mine, _ in pairs], None),
        Line("--help of a bare Hydra program", "s", [bare_s for _, bare_s in pairs], None),
        Line("--help over the bare program's, pair by pair", "x", [mine / bare_s for mine, bare_s in pairs], 1.25),
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
