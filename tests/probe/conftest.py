"""Real trainers in real processes, with the probe on their PYTHONPATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mfubench.files.paths import PROBE_SITE
from mfubench.launch import extensions
from mfubench.records.reading import RankRecord, Records, read_records

TRAINERS = Path(__file__).parents[1] / "trainers"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MFUBENCH_RECORDS")


@dataclass(frozen=True)
class Pair:
    """What two ranks recorded, and when the first forward of each step began and was over by rank 0's own clock."""

    records: Records
    first_forwards_s: tuple[tuple[float, float], ...]


@pytest.fixture(scope="session")
def trainers() -> Path:
    """The folder of trainers."""
    return TRAINERS


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python to its end; `records` switches the probe on, `path` is the PYTHONPATH, `given` the standard input."""

    def python(
        *arguments: object, records: Path | None, path: tuple[Path, ...] = (PROBE_SITE,), given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
        environment |= extensions.build_environment(sys.executable)
        if records:
            environment["MFUBENCH_RECORDS"] = str(records)
        command = [sys.executable, *map(str, arguments)]
        extensions.release()
        began_s = time.time()
        try:
            return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, timeout=600)
        finally:
            extensions.release(began_s)  # of a build that was killed

    return python


@pytest.fixture(scope="session")
def run_several(run: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., dict[str, RankRecord]]:
    """Runs a trainer once for each scenario (a name and its options), all together; what each recorded, by name."""

    def scenarios(trainer: str, options: dict[str, str], records: Path, *imports: str) -> dict[str, RankRecord]:
        given = "\n".join(options.values())
        done = run(TRAINERS / "several.py", TRAINERS / trainer, *imports, records=records, given=given)
        assert done.returncode == 0, done.stderr
        ranks = read_records(records).ranks
        assert [rank.rank for rank in ranks] == list(range(len(options)))
        return dict(zip(options, ranks, strict=True))

    return scenarios


@pytest.fixture(scope="session")
def run_pair(run: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Pair]:
    """Runs a trainer on two ranks that train together, with a stopwatch of its own."""

    def pair(trainer: str, *options: object, folder: Path) -> Pair:
        stopwatch = folder / "stopwatch.json"
        (folder / "records").mkdir()
        script = (TRAINERS / trainer, *options, "--stopwatch", stopwatch)
        done = run(*TORCHRUN, *script, records=folder / "records")
        assert done.returncode == 0, done.stderr
        return Pair(
            read_records(folder / "records"), tuple((a / 1e9, b / 1e9) for a, b in json.loads(stopwatch.read_text()))
        )

    return pair
