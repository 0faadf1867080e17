"""What the tests of real frameworks share. Each run takes up to a minute, so one that was asked for before isn't run again.

test_NAME.py is about the framework NAME: its tests are marked `frameworks`, and skipped where launchers/NAME/.venv isn't
installed. Nothing needs to be written in the file for that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import two_nodes
import yaml

from mfubench.files.paths import CONF, ROOT
from mfubench.plan.engines import INSTALLED

WATCH = Path(__file__).parent / "watch"
# A peak that is known: to measure one takes seconds of each run, and it isn't the point here.
QUICK = ("measurement=quick", "hardware.peak_flops_per_second=1e12", "tracking=none")
ALL = sorted(path.stem for path in (CONF / "framework").glob("*.yaml"))

Results = dict[frozenset[str], dict[str, Any]]  # by the overrides that asked for each
Measured = Callable[..., dict[str, Any]]


def why_not(framework: str) -> str | None:
    """Why the framework can't be run here; None where it can."""
    python = yaml.safe_load((CONF / "framework" / f"{framework}.yaml").read_text())["python"]
    if python is None or (ROOT / python).parent.parent.joinpath(INSTALLED).is_file():
        return None
    return f"{framework} is not installed: launchers/install {framework}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.frameworks)
            about = item.path.stem.removeprefix("test_")
            if about in ALL and (reason := why_not(about)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def run_so_far() -> Results:
    """The results of this session."""
    return {}


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sweep of `side_by_side` runs; the workers of one session share it."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sweep"


@pytest.fixture(scope="session")
def measured(run_so_far: Results, sweep_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Overrides in, the result out as result.json has it, whatever its status. Overrides that the defaults equal are another
    run: leave them away, so that runs are shared, with the sweep too as far as that is."""

    def run(*overrides: str) -> dict[str, Any]:
        asked = frozenset(overrides)
        if asked not in run_so_far:
            run_so_far.update((frozenset(_asked(result)), result) for result in results_below(sweep_folder))
        if asked not in run_so_far:
            (run_so_far[asked],) = mfubench(tmp_path_factory.mktemp("run"), overrides)
        return run_so_far[asked]

    return run


@pytest.fixture(scope="session")
def side_by_side(sweep_folder: Path) -> list[dict[str, Any]]:
    """One sweep, as a user would type it, over every framework that is installed here and both modes, on the default model."""
    installed = [name for name in ALL if why_not(name) is None]
    sweep_folder.mkdir()
    sweep = ["-m", "measurement.profile_steps=1", f"framework={','.join(installed)}", "mode=full,lora"]
    results = mfubench(sweep_folder, sweep)
    assert len(results) == 2 * len(installed)
    return results


@pytest.fixture
def on_two_nodes() -> Measured:
    """Overrides in, out the result of a run on two nodes that others start, each a process here with a rank."""

    def run(*overrides: str) -> dict[str, Any]:
        with TemporaryDirectory() as short:  # a socket's path in it has at most 107 letters
            port, folder = two_nodes.free_port(), Path(short)
            nodes = [two_nodes.start(folder, rank, port, *QUICK, *overrides) for rank in (0, 1)]
            statuses, said = two_nodes.ended(*nodes)
            assert statuses == [0, 0], said
            return two_nodes.result_of(folder)

    return run


def _asked(result: dict[str, Any]) -> list[str]:
    return [f"{group}={result['settings'][group]['name']}" for group in ("framework", "mode")]


def mfubench(folder: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The results of a command, run in `folder`, in the order of its jobs."""
    command = [sys.executable, "-m", "mfubench", *QUICK, *overrides]
    environment = {**os.environ, "PYTHONPATH": f"{WATCH}{os.pathsep}{os.environ['PYTHONPATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    results = results_below(folder)
    assert results, f"{' '.join(command)} left no result\n{done.stdout}\n{done.stderr}"
    return results


def results_below(folder: Path) -> list[dict[str, Any]]:
    """The results below the folder in the order of their starts, each with the digest that `watch` wrote."""
    found = [json.loads(path.read_text()) | {"weights": digest_beside(path)} for path in folder.rglob("result.json")]
    return sorted(found, key=lambda result: str(result["started_at"]))


def digest_beside(result: Path) -> str | None:
    """The digest of the weights before the first optimizer step; None if there was no such step."""
    written = result.with_name("weights.sha256")
    return written.read_text() if written.is_file() else None
