"""Whether settings that are alike are found alike, and a known difference is found. In: a folder. Out: Comparisons.

Everything is run for real, in fresh processes that take turns, as `repeat=range(N)` does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import fmean

from mfubench.files.paths import PROBE_SITE, ROOT
from mfubench.measure.ratio import paired
from mfubench.records.reading import read_records

from .figures import Comparison, run

SAME_REPEATS = 4
SLOWER_REPEATS = 6
SLOWER = 1.02
STEP_S = 0.05


def comparing(folder: Path) -> list[Comparison]:
    """The same setting twice, by whole runs of it; and a trainer that sleeps beside one that sleeps 2 % longer."""
    same = [(_measured(folder, f"{n}-one"), _measured(folder, f"{n}-other")) for n in range(SAME_REPEATS)]
    slower = [
        (_slept(folder / f"slept-{n}", STEP_S), _slept(folder / f"slower-{n}", STEP_S * SLOWER))
        for n in range(SLOWER_REPEATS)
    ]
    return [
        Comparison("the default run over itself", paired(*zip(*same, strict=True)), (1.0, 1.0), False),
        Comparison("a sleeper over one 2 % faster", paired(*zip(*slower, strict=True)), (SLOWER, SLOWER), True),
    ]


def _measured(folder: Path, name: str) -> float:
    """The mean step time of a run of the default setting."""
    run_folder = folder / "same" / name
    steps = ("measurement.minimum_steps=20", "measurement.steps=20")
    own = ("measurement=quick", *steps, "tracking=none", "hardware.peak_flops_per_second=1e12")
    run([sys.executable, "-m", "mfubench", *own, f"hydra.run.dir={run_folder}"], folder)
    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "ok", result["reason"]
    return float(result["measurement"]["step_time_s"])


def _slept(folder: Path, step_s: float) -> float:
    """The mean step time that the probe saw of a trainer that sleeps so long in each."""
    folder.mkdir(parents=True)
    command = [sys.executable, str(ROOT / "tests" / "trainers" / "sleeper.py"), "--seconds", f"{step_s}"]
    probed = {"PYTHONPATH": str(PROBE_SITE), "MFUBENCH_RECORDS": str(folder), "OMP_NUM_THREADS": "1"}
    run([*command, "--steps", "42"], folder, os.environ | probed)
    (rank,) = read_records(folder).ranks
    return fmean(rank.step_times_s[2:])
