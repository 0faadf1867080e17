"""Every fault, injected for real once: its status, its evidence, and nobody left. Many times: make bench-faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from matrix import ALONE, OF_RANKS, Fault, Injected, Sweep, can_limit_memory, inject

from mfubench.launch import supervision


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Faults of one process, in one sweep."""
    faults = [fault for fault in ALONE if fault.name != "killed_by_the_kernel" or can_limit_memory()]
    return inject(faults, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Faults of one rank of two, in one sweep."""
    return inject(OF_RANKS, tmp_path_factory.mktemp("ranks"), ranks=2)


def of(sweep: Sweep, name: str) -> Injected:
    found = [each for each in sweep.injected if each.fault.name == name]
    if not found:
        pytest.skip("the kernel can't be made to kill for want of memory here: that takes a cgroup of one's own")
    return found[0]


@pytest.mark.parametrize("fault", ALONE, ids=lambda fault: fault.name)
def test_a_fault_has_its_status_and_its_evidence(alone: Sweep, fault: Fault) -> None:
    assert of(alone, fault.name).wrong == []


@pytest.mark.parametrize("fault", OF_RANKS, ids=lambda fault: fault.name)
def test_a_fault_of_one_rank_has_its_status_and_its_evidence(of_ranks: Sweep, fault: Fault) -> None:
    assert of(of_ranks, fault.name).wrong == []


def test_no_process_survives_any_of_them_and_the_sweep_goes_on(alone: Sweep, of_ranks: Sweep) -> None:
    assert (alone.left, of_ranks.left) == ([], [])
    assert (alone.returncode, of_ranks.returncode) == (3, 3), alone.errors + of_ranks.errors


def test_which_rank_it_was_and_the_memory_at_the_time_stand_in_the_result(of_ranks: Sweep) -> None:
    for name, rank, signal in (("rank_killed", 1, "SIGKILL"), ("rank_crashes", 1, "SIGSEGV"), ("rank_raises", 1, None)):
        result = of(of_ranks, name).result
        assert result is not None
        outcome = result["outcome"]
        assert (outcome["failed_rank"], outcome["signal"]) == (rank, signal)
        assert outcome["memory"]["resident_bytes_max"] > 100e6 and outcome["memory"]["host_available_bytes_min"] > 0
        assert outcome["peak_memory_bytes"].keys() == {"0", "1"}


def test_a_flood_leaves_a_log_that_a_disk_can_bear(alone: Sweep) -> None:
    result = of(alone, "flood").result
    assert result is not None
    written = Path(result["provenance"]["folder"]) / "framework.log"
    assert written.stat().st_size <= supervision.MAX_LOG_BYTES
    assert result["outcome"]["log_bytes_left_out"] > supervision.MAX_LOG_BYTES


def test_a_failure_after_all_steps_is_noted_beside_the_figures(alone: Sweep) -> None:
    result = of(alone, "after_all_steps").result
    assert result is not None and result["measurement"]
    said = "exit status 7" in " ".join(warning["text"] for warning in result["warnings"])
    assert said == (result["outcome"]["ended"] == "itself")  # else it was stopped before it came to that
