"""Nodes that others start: two processes with scratch folders of their own, and a run folder that they share."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import two_nodes
from architectures import SMALLER
from two_nodes import ended, free_port, result_of

SETTINGS = (
    *SMALLER,
    "measurement=quick",
    "hardware.peak_flops_per_second=1e12",
    "tracking=none",
    "parallelism=ddp",
)
TRAINER = Path(__file__).parents[1] / "faults" / "trainer.py"
LONG = ("measurement.steps=5000", "measurement.stall_s=60")


def start(folder: Path, rank: int, port: int, *overrides: str, prefix: str = "") -> subprocess.Popen[str]:
    return two_nodes.start(folder, rank, port, *SETTINGS, *overrides, prefix=prefix)


def left(folder: Path) -> list[str]:
    """Command lines of processes that work below the folder."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(folder):
            found.append(" ".join(process.info["cmdline"] or ()))
    return found


@pytest.mark.parametrize("prefix", ["", pytest.param("PET_", marks=pytest.mark.slow)])
def test_the_first_node_writes_the_result_and_the_other_ends_well(tmp_path: Path, prefix: str) -> None:
    port = free_port()
    statuses, said = ended(*(start(tmp_path, rank, port, prefix=prefix) for rank in (0, 1)))
    assert statuses == [0, 0], said
    result = result_of(tmp_path)
    assert (result["status"], result["nodes"], result["unwatched_nodes"]) == (
        "ok",
        {"node0": [0], "node1": [1]},
        ["node1"],
    )
    assert result["work"]["world_size"] == 2 and result["measurement"]["steps"] == 8
    assert (result["stopped_by"], result["outcome"]["ended"]) in (("mfubench", "stopped"), (None, "itself"))
    assert [path.parent.name for path in (tmp_path / "run").rglob("framework.log")].count("1") == 1
    assert left(tmp_path) == []


@pytest.mark.slow
def test_a_node_that_never_comes_is_named(tmp_path: Path) -> None:
    (status,), _ = ended(start(tmp_path, 0, free_port(), "cluster.join_timeout_s=3"))
    result = result_of(tmp_path)
    assert (status, result["status"]) == (3, "unsupported")
    assert result["reason"].startswith(f"node 1 did not come to {tmp_path / 'run'} within 3 s")


@pytest.mark.slow
def test_a_node_that_can_not_take_part_says_why_in_the_result(tmp_path: Path) -> None:
    port = free_port()
    first = start(tmp_path, 0, port)
    second = start(tmp_path, 1, port, "framework.python=/not/there/python")
    statuses, said = ended(first, second)
    result = result_of(tmp_path)
    assert (statuses, result["status"]) == ([3, 3], "unsupported")
    assert (
        result["reason"]
        == "node 1: hf_trainer is not installed here (no /not/there/python): launchers/install hf_trainer"
    )
    assert "not_installed: hf_trainer is not installed" in said[1]


@pytest.mark.slow
def test_a_rank_killed_on_the_other_node_is_named(tmp_path: Path) -> None:
    command = (
        "framework.command=['${run.python}','${parallelism.launcher}',"
        f"'{TRAINER}','${{variables.fault}}','${{run.config_path}}']"
    )
    fault, port = (command, "+framework.variables.fault=rank_killed"), free_port()
    statuses, _ = ended(*(start(tmp_path, rank, port, *fault) for rank in (0, 1)))
    result = result_of(tmp_path)
    assert (statuses, result["status"]) == ([3, 0], "failed")
    assert "(rank 1 ended by SIGKILL)" in result["reason"], result["reason"]
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_first_node_is_the_end_of_all(tmp_path: Path, how: signal.Signals) -> None:
    port = free_port()
    first, second = (start(tmp_path, rank, port, *LONG) for rank in (0, 1))
    records, deadline = tmp_path / "run" / "records", time.monotonic() + 300
    while not all((records / f"rank{rank}.jsonl").exists() for rank in (0, 1)) or any(
        path.read_text().count('"event": "step"') < 10 for path in records.glob("rank*.jsonl")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.send_signal(how)
    statuses, said = ended(first, second)
    assert statuses[1] == 0, said[1]
    if how == signal.SIGINT:
        result = result_of(tmp_path)
        assert (statuses[0], result["status"], result["stopped_by"]) == (0, "ok", "user"), result["reason"]
    assert left(tmp_path) == []
