"""Real trainers in real processes, with the probe on their PYTHONPATH."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mfubench.paths import PROBE_SITE
from mfubench.records import RankRecord, read

TRAINERS = Path(__file__).parents[1] / "trainers"
OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MFUBENCH_RECORDS")


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
        if records:
            environment["MFUBENCH_RECORDS"] = str(records)
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, timeout=200)

    return python


@pytest.fixture(scope="session")
def run_several(run: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., dict[str, RankRecord]]:
    """Runs a trainer once for each scenario (a name and its options), all together; what each recorded, by name."""

    def scenarios(trainer: str, options: dict[str, str], records: Path, *imports: str) -> dict[str, RankRecord]:
        given = "\n".join(options.values())
        done = run(TRAINERS / "several.py", TRAINERS / trainer, *imports, records=records, given=given)
        assert done.returncode == 0, done.stderr
        ranks = read(records).ranks
        assert [rank.rank for rank in ranks] == list(range(len(options)))
        return dict(zip(options, ranks, strict=True))

    return scenarios
