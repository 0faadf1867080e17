"""Several nodes on a real Slurm: runs, refusals, faults. Two slurmd on this host, one rank of gloo on each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import slurm as local_slurm
from architectures import BUILDS_OPERATORS, SMALLER
from slurm import Slurm

pytestmark = pytest.mark.skipif(local_slurm.why_not() is not None, reason=str(local_slurm.why_not()))

COMMAND = (sys.executable, "-m", "mfubench")
SETTINGS = (*SMALLER, "measurement=quick", "hardware.peak_flops_per_second=1e12", "tracking=none", "hydra.run.dir=run")
DDP, ZERO2 = "parallelism=ddp", "parallelism=zero2"
TWO_NODES = ("cluster=slurm", "parallelism.num_nodes=2")
TO_THE_FIRST_NODE = ("srun", "--overlap", "--nodes=1", "--ntasks=1")  # as docs/cluster.md has it
Ran = tuple[dict[str, Any], subprocess.Popen[str], str]
TRAINER = Path(__file__).parents[1] / "faults" / "trainer.py"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with local_slurm.running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test both nodes are free, and no step of it is left."""
    yield
    if "slurm" in request.fixturenames:
        cluster: Slurm = request.getfixturevalue("slurm")
        for node in local_slurm.NODES:
            cluster.wait_for(node, "idle")
        assert cluster.run("squeue", "--noheader", "--steps") == ""
        deadline = time.monotonic() + 20  # a step's own daemon is the last to end
        while left := cluster.steps():
            assert time.monotonic() < deadline, left
            time.sleep(0.2)


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run" / "result.json").read_text()))


def run(slurm: Slurm, folder: Path, *overrides: str, to: tuple[str, ...] = ()) -> Ran:
    """The command in an allocation, to its end: its result, and what it said. `to`: what takes it to the first node."""
    process = slurm.allocated([*to, *COMMAND, *SETTINGS, *TWO_NODES, *overrides], folder)
    _, errors = process.communicate(timeout=600)
    return result_of(folder), process, errors


def one_node(folder: Path, *overrides: str) -> dict[str, Any]:
    folder.mkdir()
    subprocess.run([*COMMAND, *SETTINGS, *overrides], cwd=folder, capture_output=True, check=True, timeout=600)
    return result_of(folder)


def is_alike(two: dict[str, Any], one: dict[str, Any]) -> None:
    """A run on two nodes has the FLOPs and the steps of the run with as many ranks on one."""
    assert (two["status"], two["reason"], one["status"]) == ("ok", None, "ok")
    assert two["flops"] == one["flops"] and two["measurement"]["steps"] == one["measurement"]["steps"] == 8
    assert two["work"]["world_size"] == 2 and two["work"]["wrappers"] == one["work"]["wrappers"]
    assert {rank: len(times) >= 10 for rank, times in two["step_times_s"].items()} == {"0": True, "1": True}
    assert sorted(two["outcome"]["peak_memory_bytes"]) == ["0", "1"]


@pytest.mark.slow
def test_ddp_on_two_nodes_is_the_run_of_two_ranks_on_one(slurm: Slurm, tmp_path: Path) -> None:
    two, process, errors = run(slurm, tmp_path, DDP, to=TO_THE_FIRST_NODE)
    assert process.returncode == 0, errors
    is_alike(two, one_node(tmp_path / "one", DDP))
    ranks = two["nodes"]  # c10d doesn't always give rank 0 to the first node
    assert sorted(ranks) == ["node1", "node2"] and sorted(ranks["node1"] + ranks["node2"]) == [0, 1]
    assert two["unwatched_nodes"] == ["node2"] and two["outcome"]["pids_left"] == []
    (text,) = (warning["text"] for warning in two["warnings"] if warning["kind"] == "unwatched")
    assert text.startswith("node2 was not watched") and "those of node1" in text
    assert (
        two["conditions"][0]["foreign_share"] is None
    )  # the ranks are no descendants, so nobody can tell them from others


@pytest.mark.slow
@BUILDS_OPERATORS
def test_llmforge_shards_over_two_nodes_as_over_two_ranks_of_one(slurm: Slurm, tmp_path: Path) -> None:
    two, process, errors = run(slurm, tmp_path, ZERO2, "framework=llmforge")
    assert process.returncode == 0, errors
    is_alike(two, one_node(tmp_path / "one", ZERO2, "framework=llmforge"))


def test_outside_of_an_allocation_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *SETTINGS, DDP, *TWO_NODES], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    result = result_of(tmp_path)
    assert done.returncode == 3 and result["status"] == "unsupported"
    assert "outside of one: salloc --nodes=2 --exclusive srun" in result["reason"]


def test_more_nodes_than_are_allocated_are_refused_before_the_start(slurm: Slurm, tmp_path: Path) -> None:
    result, process, _ = run(slurm, tmp_path, DDP, "parallelism.num_nodes=3", "parallelism.num_devices=3")
    assert (process.returncode, result["status"]) == (3, "unsupported")
    assert result["reason"].startswith("the nodes can't be reached: ") and "node" in result["reason"]
    assert not (tmp_path / "run" / "framework.log").exists()


@pytest.mark.skipif(not local_slurm.can_hide(), reason="no process may have mounts of its own here")
def test_a_run_folder_that_a_node_does_not_see_is_refused_and_named(slurm: Slurm, tmp_path: Path) -> None:
    hidden = slurm.hidden / "run"
    process = slurm.allocated([*COMMAND, *SETTINGS, *TWO_NODES, DDP, f"hydra.run.dir={hidden}"], tmp_path)
    process.communicate(timeout=120)
    result = json.loads((hidden / "result.json").read_text())
    assert (process.returncode, result["status"]) == (3, "unsupported")
    assert result["reason"].endswith(f"in the same place: node2 lacks {hidden}"), result["reason"]


FAULT = (
    "framework.command=['${run.python}','${parallelism.launcher}',"
    f"'{TRAINER}','${{variables.fault}}','${{run.config_path}}']"
)


def wait_for_steps(folder: Path, steps: int = 3, within_s: float = 300) -> None:
    """Wait until both ranks have recorded some steps."""

    def recorded() -> bool:
        ranks = (folder / "run" / "records").glob("rank*.jsonl")
        done = [path.read_text().count('"event": "step"') for path in ranks]
        return len(done) == 2 and min(done) >= steps

    wait_until(recorded, folder / "run" / "framework.log", within_s)


def submit(slurm: Slurm, folder: Path, option: str, *overrides: str) -> str:
    """Submit the command as a batch script for two nodes; the job's number."""
    script = folder / "job.sh"
    words = " ".join(f"'{word}'" for word in (*COMMAND, *SETTINGS, *TWO_NODES, *overrides))
    script.write_text(f"#!/bin/bash\n#SBATCH --nodes=2 --output=job.log --open-mode=append {option}\nexec {words}\n")
    argv = ["sbatch", "--parsable", str(script)]
    done = subprocess.run(argv, cwd=folder, env=slurm.environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def wait_until(true: Callable[[], bool], log: Path, within_s: float = 180) -> None:
    """Wait for what a job comes to; its log says why it doesn't."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


LONG = (DDP, "measurement.steps=5000", "measurement.stall_s=60")


@pytest.mark.slow
def test_a_rank_killed_on_one_node_ends_both_and_is_named(slurm: Slurm, tmp_path: Path) -> None:
    result, process, _ = run(slurm, tmp_path, DDP, FAULT, "+framework.variables.fault=rank_killed")
    assert (process.returncode, result["status"]) == (3, "failed")
    assert re.search(r"\(rank 1 ended by SIGKILL\), [23] of 10", result["reason"]), result["reason"]


@pytest.mark.slow
def test_a_rendezvous_that_is_never_complete_has_its_words(slurm: Slurm, tmp_path: Path) -> None:
    words = ("nnodes=3", "rdzv_backend=c10d", "rdzv_endpoint=${run.head}:${run.port}", "rdzv_conf=join_timeout=10")
    three = f"cluster.rendezvous=[{','.join(repr(f'--{word}') for word in words)}]"
    result, process, _ = run(slurm, tmp_path, DDP, three)
    assert (process.returncode, result["status"]) == (3, "failed")
    assert "RendezvousTimeoutError" in result["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the job", "the time limit"])
def test_a_job_that_slurm_ends_keeps_what_was_measured(slurm: Slurm, tmp_path: Path, how: str) -> None:
    job = submit(slurm, tmp_path, "--no-requeue", *LONG)
    wait_for_steps(tmp_path, steps=8)
    if how == "the job":
        slurm.run("scancel", job)
    else:
        slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait_until((tmp_path / "run" / "result.json").exists, tmp_path / "job.log")
    result = result_of(tmp_path)
    assert (result["status"], result["stopped_by"]) == ("ok", "user"), result["reason"]
    assert result["measurement"]["steps"] >= 4 and result["outcome"]["pids_left"] == []


@pytest.mark.slow
def test_a_job_that_is_requeued_goes_on_where_it_was(slurm: Slurm, tmp_path: Path) -> None:
    first, ended, again = (
        tmp_path / "sweep" / path for path in ("0/result.json", "1/superseded.json", "1-2/result.json")
    )
    job = submit(slurm, tmp_path, "--requeue", "-m", "seed=1,2", "resume=true", "hydra.sweep.dir=sweep", DDP)
    wait_until(first.is_file, tmp_path / "job.log")
    before = first.read_bytes()
    wait_until(ended.with_name("plan.json").is_file, tmp_path / "job.log")
    slurm.run("scontrol", "requeue", job)
    wait_until(
        lambda: slurm.run("squeue", "--noheader", f"--job={job}", "--format=%T").strip() == "PENDING",
        tmp_path / "job.log",
    )
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # else Slurm waits for two minutes
    wait_until(again.is_file, tmp_path / "job.log")
    assert [json.loads(path.read_text())["status"] for path in (first, ended, again)] == ["ok", "interrupted", "ok"]
    assert first.read_bytes() == before


@pytest.mark.slow
def test_a_killed_mfubench_leaves_no_step(slurm: Slurm, tmp_path: Path) -> None:
    process = slurm.allocated([*COMMAND, *SETTINGS, *TWO_NODES, *LONG], tmp_path)
    wait_for_steps(tmp_path)
    (mine,) = psutil.Process(process.pid).children()
    os.kill(mine.pid, signal.SIGKILL)
    process.communicate(timeout=60)


@pytest.mark.slow
def test_a_node_that_is_lost_ends_the_run(slurm: Slurm, tmp_path: Path) -> None:
    process = slurm.allocated(["--no-kill", *COMMAND, *SETTINGS, *TWO_NODES, *LONG], tmp_path)
    wait_for_steps(tmp_path)
    slurm.daemons["node2"].kill()
    slurm.daemons["node2"].wait()
    try:
        process.communicate(timeout=300)
        result = result_of(tmp_path)
        assert result["status"] == "failed" and "node2" in result["reason"], result["reason"]
    finally:
        for process in slurm.steps():  # a lost node takes its steps' daemons along
            process.kill()
        slurm.start("node2")


@pytest.mark.slow
def test_a_sweep_with_an_allocation_for_each_job_has_its_table_and_its_results(slurm: Slurm, tmp_path: Path) -> None:
    own = ("hydra/launcher=slurm", "hydra.launcher.partition=main", "hydra.sweep.dir=sweep", "batch_size=1,2", DDP)
    done = subprocess.run(
        [*COMMAND, "-m", *SETTINGS, *TWO_NODES, *own],
        cwd=tmp_path,
        env=slurm.environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / "sweep" / job / "result.json").read_text()) for job in ("0", "1")]
    assert [(each["status"], sorted(each["nodes"])) for each in results] == [("ok", ["node1", "node2"])] * 2
    assert [each["settings"]["batch_size"] for each in results] == [1, 2]
    assert [each["name"] for each in results] == [f"hf_trainer-llama-tiny-full-bs{size}" for size in (1, 2)]
    assert "parallelism ddp ×2 on 2 nodes" in " ".join(done.stdout.split())
    assert "results  sweep" in done.stderr
