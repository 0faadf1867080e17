"""How the probe gets into a process, and that its own mistakes stay its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mfubench.files.paths import PROBE_SITE
from mfubench.records.reading import read_records


@pytest.fixture
def probe_copy(tmp_path: Path) -> Path:
    """A copy of the probe's folder, to be broken."""
    return shutil.copytree(PROBE_SITE.parent, tmp_path / "probe", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


def test_looking_for_torch_before_importing_it_does_not_disable_the_probe(
    records: Path, run: Callable, trainers: Path
) -> None:
    look = "import importlib.util, runpy, sys; assert importlib.util.find_spec('torch') and 'torch' not in sys.modules"
    trainer = str(trainers / "sleeper.py")
    look += f"; sys.path.insert(0, {str(trainers)!r})"
    done = run(
        "-c", f"{look}; sys.argv = [{trainer!r}]; runpy.run_path({trainer!r}, run_name='__main__')", records=records
    )
    assert done.returncode == 0, done.stderr
    assert len(read_records(records).ranks[0].step_times_s) == 4


@pytest.mark.parametrize("switched_on", [True, False])
def test_the_hosts_own_sitecustomize_still_runs(
    tmp_path: Path, records: Path, run: Callable, switched_on: bool
) -> None:
    (tmp_path / "sitecustomize.py").write_text("where = __file__\n")
    path = (PROBE_SITE, PROBE_SITE, tmp_path)
    done = run(
        "-c", "import sitecustomize; print(sitecustomize.where)", records=records if switched_on else None, path=path
    )
    assert done.stdout.strip() == str(tmp_path / "sitecustomize.py")


def test_nothing_is_loaded_unless_records_are_wanted(run: Callable) -> None:
    show = "import sys; print([name for name in sys.modules if 'mfubench' in name], sys.meta_path)"
    off = run("-c", show, records=None).stdout
    assert off.startswith("[] [")
    assert "mfubench" not in off


def test_a_process_that_imports_torch_and_does_not_train_writes_nothing(records: Path, run: Callable) -> None:
    done = run("-c", "import torch; torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()", records=records)
    assert done.returncode == 0
    assert list(records.iterdir()) == []


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory: pytest.TempPathFactory, run: Callable, trainers: Path) -> Path:
    folder = tmp_path_factory.mktemp("twice")
    for _ in range(2):
        assert run(trainers / "sleeper.py", "--steps", 2, records=folder).returncode == 0
    return folder


def test_a_second_process_of_the_same_rank_gets_records_of_its_own(trained_twice: Path) -> None:
    first, second = read_records(trained_twice).ranks
    assert (first.rank, second.rank) == (0, 0)
    names = {path.stem for path in trained_twice.iterdir()}
    assert names in ({"rank0", f"rank0.{first.pid}"}, {"rank0", f"rank0.{second.pid}"})


def test_the_start_line_says_where_the_records_come_from(trained_twice: Path, trainers: Path) -> None:
    start = json.loads((trained_twice / "rank0.jsonl").read_text().splitlines()[0])
    assert start["event"] == "start"
    assert start["argv"] == [str(trainers / "sleeper.py"), "--steps", "2"]
    assert start["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (start["rank"], start["local_rank"], start["world_size"]) == (0, 0, 1)


BREAKAGES = {
    # A package file that can't be loaded; a module that can't be imported; an observation that raises while training.
    "package": ("__init__.py", "from .events import Writer", "raise OSError('broken on purpose')"),
    "module": ("first_step.py", "import torch.nn.functional as F", "raise OSError('broken on purpose')"),
    "observation": (
        "batches.py",
        "for index, (waiting, counts) in enumerate(self._waiting):",
        "raise OSError('broken on purpose')\n        for index, (waiting, counts) in enumerate(self._waiting):",
    ),
    "work": ("describe.py", "links = chain(root)\n    config", "raise OSError('broken on purpose')\n    config"),
}


@pytest.mark.parametrize("where", BREAKAGES)
def test_a_mistake_of_the_probe_is_recorded_and_does_not_disturb_the_host(
    where: str, probe_copy: Path, records: Path, run: Callable, trainers: Path
) -> None:
    name, good, bad = BREAKAGES[where]
    text = (probe_copy / name).read_text()
    assert text.count(good) == 1
    (probe_copy / name).write_text(text.replace(good, bad))

    done = run(trainers / "sleeper.py", records=records, path=(probe_copy / "site",))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("final loss")
    assert done.stderr == ""
    seen = read_records(records)
    errors = [*seen.errors, *(error for rank in seen.ranks for error in rank.errors)]
    assert len(errors) == 1
    assert "broken on purpose" in errors[0]


def test_a_records_folder_that_cannot_be_written_does_not_disturb_the_host(
    tmp_path: Path, run: Callable, trainers: Path
) -> None:
    done = run(trainers / "sleeper.py", records=tmp_path / "missing")
    assert done.returncode == 0
    assert done.stdout.startswith("final loss")
    assert done.stderr == ""
