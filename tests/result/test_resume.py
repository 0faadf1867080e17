"""Sweeps that are interrupted, killed, extended, and gone on with: nothing is lost, and nothing is run twice."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from architectures import SMALLER

import mfubench
from mfubench.config import Experiment
from mfubench.config.compose import Sweep, check_command_line, store_schema
from mfubench.result import resume
from mfubench.result.identity import identity

TRAINERS = Path(__file__).parents[1] / "trainers"
SMALL = (
    "measurement=quick",
    *SMALLER,
    "hardware.peak_flops_per_second=1e12",
    "tracking=none",
)
COMMAND = [sys.executable, "-m", "mfubench"]


def trained_by(*argv: object) -> str:
    """The override that starts a program of tests/trainers/ in the place of the framework's."""
    return f"framework.command=[{','.join(repr(str(word)) for word in ('${run.python}', *argv))}]"


def mfubench_in(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder of its own, to its end."""
    return subprocess.run([*COMMAND, *argv], cwd=folder, capture_output=True, text=True, check=False, timeout=600)


def below(folder: Path) -> dict[Path, dict[str, Any]]:
    """Every result below the folder."""
    return {path: json.loads(path.read_text()) for path in sorted(folder.rglob("result.json"))}


def repeats(folder: Path, status: str = "ok") -> list[int]:
    """The value of `repeat` in each result of this status."""
    return sorted(result["settings"]["repeat"] for result in below(folder).values() if result["status"] == status)


@pytest.fixture(scope="module")
def quickly(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple[str, ...]]:
    """Overrides that make a run a matter of a second, with the records of one real run; it fails while the file is there."""
    folder = tmp_path_factory.mktemp("recorded")
    trainer = trained_by(TRAINERS / "other_work.py", "${run.config_path}", "nothing else")
    done = mfubench_in(folder, *SMALL, trainer)
    assert done.returncode == 0, done.stdout + done.stderr
    (recording,) = folder.rglob("rank0.jsonl")
    return lambda flaw: (*SMALL, trained_by(TRAINERS / "replayed.py", recording, flaw))


@pytest.fixture(scope="module")
def sweep(
    quickly: Callable[[Path], tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], Path]:
    """A sweep of two of which one failed; where it was started, its command line, and what made the one fail."""
    folder = tmp_path_factory.mktemp("sweep")
    flaw = folder / "flaw"
    argv = [*quickly(flaw), "repeat=0,1"]
    first = mfubench_in(folder, "-m", *argv[:-1], "repeat=0", "hydra.sweep.dir=outputs/sweeps/a/b")
    assert first.returncode == 0, first.stdout + first.stderr
    flaw.touch()
    return folder, argv, flaw


def test_a_sweep_goes_on_with_what_is_not_ok_and_leaves_the_rest_as_it_is(sweep: tuple[Path, list[str], Path]) -> None:
    folder, argv, flaw = sweep
    ((ok, _),) = below(folder).items()
    before = {path: path.read_bytes() for path in ok.parent.rglob("*") if path.is_file()}
    here = "hydra.sweep.dir=outputs/sweeps/a/b"

    failing = mfubench_in(folder, "-m", *argv, "resume=true", here)
    assert failing.returncode == 3, failing.stderr
    assert failing.stderr.count("ok already") == 1
    assert (repeats(folder), repeats(folder, "failed")) == ([0], [1])

    flaw.unlink()
    named = mfubench_in(folder, *argv, "-m", "resume=true")  # the last sweep of the same settings, wherever it lies
    assert named.returncode == 0, named.stdout + named.stderr
    assert re.search(r"^n +2 *$", named.stdout, re.MULTILINE)  # both are in the table
    assert (repeats(folder), repeats(folder, "failed")) == ([0, 1], [])
    assert {path.parent.parent for path in below(folder)} == {ok.parent.parent}
    (set_aside,) = folder.rglob("superseded.json")
    assert json.loads(set_aside.read_text())["status"] == "failed"
    assert set_aside.with_name("framework.log").read_text() == "RuntimeError: not today\n"

    # Other numbers for the same settings: what is there isn't run again, and nothing is written over it.
    more = mfubench_in(folder, "-m", *argv[:-1], "repeat=2,1,0", "resume=true", here)
    assert more.returncode == 0, more.stderr
    assert more.stderr.count("ok already") == 2
    assert repeats(folder) == [0, 1, 2]
    assert {path: path.read_bytes() for path in before} == before
    for path, result in below(folder).items():
        assert f"repeat={result['settings']['repeat']}" in (path.parent / ".hydra" / "overrides.yaml").read_text()


def test_a_sweep_in_the_folder_of_another_is_refused_unless_it_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "old" / "0" / "records").mkdir(parents=True)
    done = mfubench_in(tmp_path, "-m", "repeat=0,1", "hydra.sweep.dir=old")
    assert done.returncode == 2
    assert "there is a sweep in this folder already" in done.stderr
    assert done.stderr.splitlines()[-1].split(" try ")[-1].strip() == (
        "python -m mfubench -m repeat=0,1 hydra.sweep.dir=old resume=true"
    )
    assert len(done.stderr.splitlines()) == 4


def test_two_at_once_do_not_go_on_with_one_sweep(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), resume.locked_sweep(tmp_path / "sweep"):
        raise BlockingIOError  # of the sweep itself: it is not taken for another's lock
    with resume.locked_sweep(tmp_path / "sweep"):
        done = mfubench_in(tmp_path, "-m", "repeat=0,1", "hydra.sweep.dir=sweep", "resume=true")
    assert done.returncode == 2
    assert "another mfubench goes on with this sweep" in done.stderr


def test_ctrl_c_in_a_sweep_prints_the_table_so_far_and_a_command_that_goes_on(
    tmp_path: Path, quickly: Callable[[Path], tuple[str, ...]]
) -> None:
    argv = ["-m", *quickly(tmp_path / "no flaw"), "repeat=0,1,2", "hydra.sweep.dir='a folder, with (odd) = names'"]
    process = subprocess.Popen(
        [*COMMAND, *argv], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(list(tmp_path.rglob("result.json"))) >= 1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "step time" in output or "tokens/s" in output
    so_far = set(below(tmp_path))
    assert 1 <= len(so_far) < 3
    line = errors.rstrip().splitlines()[-1].strip()
    assert line.startswith("python -m mfubench -m ")
    words = shlex.split(line)
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert repeats(tmp_path) == [0, 1, 2]
    assert {path.parent.parent for path in below(tmp_path)} == {tmp_path / "a folder, with (odd) = names"}


def test_ctrl_c_while_a_run_that_has_enough_is_ended_keeps_it_in_the_table(
    tmp_path: Path, quickly: Callable[[Path], tuple[str, ...]]
) -> None:
    """Its trainer doesn't hear SIGTERM."""
    *small, replayed = quickly(tmp_path / "no flaw")
    heard, deaf = tmp_path / "heard", tmp_path / "deaf.py"
    deaf.write_text(f"""
import pathlib, runpy, signal
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(heard)!r}).touch())
runpy.run_path({str(TRAINERS / "replayed.py")!r}, run_name="__main__")
""")
    argv = ["-m", *small, replayed.replace(str(TRAINERS / "replayed.py"), str(deaf)), "repeat=0,1"]
    pipe = subprocess.PIPE
    process = subprocess.Popen([*COMMAND, *argv], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True)
    wait_until(heard.exists)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert repeats(tmp_path) == [0]
    assert "tokens/s" in output
    assert "resume=true" in errors.splitlines()[-1]


@pytest.mark.slow
def test_killed_at_random_moments_a_sweep_ends_with_the_results_of_an_undisturbed_one(
    tmp_path: Path, quickly: Callable[[Path], tuple[str, ...]]
) -> None:
    argv = ["-m", *quickly(tmp_path / "no flaw"), "repeat=range(5)", "resume=true"]
    moments = random.Random(8)
    for _ in range(3):
        process = subprocess.Popen(
            [*COMMAND, *argv], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        known = len(list(tmp_path.rglob("records")))
        wait_until(lambda known=known: len(list(tmp_path.rglob("records"))) > known)  # type: ignore[misc]
        time.sleep(moments.uniform(0, 2.5))
        process.kill()
        process.wait()
        assert all(result["status"] == "ok" for result in below(tmp_path).values())  # whole, or not there
    done = mfubench_in(tmp_path, *argv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert repeats(tmp_path) == [0, 1, 2, 3, 4]
    found = list(below(tmp_path).values())
    assert len({result["provenance"]["identity"]["settings"] for result in found}) == 5
    assert len({result["group"] for result in found}) == 1
    assert len(list((tmp_path / "outputs" / "sweeps").glob("*/*"))) == 1
    assert list(tmp_path.rglob(".result.json.*")) == []


def test_one_run_is_resumed_in_its_folder(tmp_path: Path, quickly: Callable[[Path], tuple[str, ...]]) -> None:
    flaw = tmp_path / "flaw"
    flaw.touch()
    argv = [*quickly(flaw), "hydra.run.dir=run", "resume=true"]
    assert mfubench_in(tmp_path, *argv).returncode == 3
    flaw.unlink()
    again = mfubench_in(tmp_path, *argv)
    assert again.returncode == 0, again.stderr
    assert [path.parent.name for path in below(tmp_path)] == ["run-2"]
    assert (tmp_path / "run" / "superseded.json").exists()
    done = mfubench_in(tmp_path, *argv)
    assert done.returncode == 0 and "ok already" in done.stderr, done.stderr
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"run", "run-2"}


def test_the_identity_is_what_is_measured_with_what(
    compose: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = identity(compose("+framework.native.a=1", "+framework.native.b=2"))
    assert mine == json.loads(json.dumps(mine))
    same = compose("+framework.native.b=2", "+framework.native.a=1", "tracking=none", "dry_run=true", "resume=true")
    assert identity(same) == mine
    natives = ("+framework.native.a=1", "+framework.native.b=2")
    for other in ("batch_size=4", "repeat=1", "framework.native.a=1.0", "mode=lora"):
        assert identity(compose(*natives, other))["settings"] != mine["settings"]
    monkeypatch.setattr(mfubench, "__version__", "another")
    assert identity(same)["settings"] == mine["settings"]
    assert identity(same) != mine


def test_another_environment_of_the_framework_is_another_identity(
    compose: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = compose()
    python = tmp_path / "bin" / "python"
    own = replace(experiment, framework=replace(experiment.framework, python=str(python)))
    (tmp_path / "installed").write_text("one")
    one = identity(own)
    (tmp_path / "installed").write_text("two")
    two = identity(own)
    assert one["settings"] == two["settings"]
    assert (one["versions"]["framework_environment"], two["versions"]["framework_environment"]) == ("one", "two")


@pytest.mark.parametrize(
    "name", ["plain/folder-1", "a b", "it's", "x=1,y=2", "(a)[b]{c}", "back\\slash", "ünïcode", "50%"]
)
def test_the_command_to_go_on_names_the_folder_as_hydra_reads_it(name: str, tmp_path: Path) -> None:
    store_schema()
    line = resume.resume_command(["-m", "repeat=0,1", "resume=false", "hydra.sweep.dir=old"], Path(name))
    words = shlex.split(line)
    assert words[:5] == ["python", "-m", "mfubench", "-m", "repeat=0,1"]
    asked = check_command_line(words[3:])
    assert asked is not None
    assert (str(asked.folder), asked.resume) == (name, True)


def test_the_last_sweep_of_the_same_settings_is_gone_on_with(tmp_path: Path) -> None:
    def made(name: str, task: list[str], at: int) -> None:
        (tmp_path / name).mkdir()
        record = tmp_path / name / "multirun.yaml"
        record.write_text(json.dumps({"hydra": {"overrides": {"task": task}}}))
        os.utime(record, (at, at))

    made("old", ["repeat=0,1", "mode=lora"], 1)
    made("new", ["mode=lora", "repeat=0,1", "resume=true"], 2)
    made("other", ["repeat=0,1"], 3)
    made("torn", [], 4)
    (tmp_path / "torn" / "multirun.yaml").write_text("hydra: {")
    asked = Sweep(
        tmp_path / "next", False, f"{tmp_path}/*", ("repeat=0,1", "mode=lora", "resume=true"), True, 2, ("repeat",)
    )
    assert resume.claim_sweep_folder(asked) == tmp_path / "new"
    assert resume.claim_sweep_folder(replace(asked, resume=False)) == tmp_path / "next"
    assert resume.claim_sweep_folder(replace(asked, named=True)) == tmp_path / "next"
    assert resume.claim_sweep_folder(replace(asked, overrides=("repeat=0",))) == tmp_path / "next"


def test_sweeps_that_start_in_one_second_have_a_folder_each(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "12-00-00", False, f"{tmp_path}/*", ("repeat=0,1",), False, 2, ("repeat",))
    with ThreadPoolExecutor() as pool:
        claimed = list(pool.map(lambda _: resume.claim_sweep_folder(sweep), range(3)))
    assert sorted(folder.name for folder in claimed) == ["12-00-00", "12-00-00-2", "12-00-00-3"]


def wait_until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
