"""What of a result becomes a column."""

from __future__ import annotations

from pathlib import Path

from logged import Made

from mfubench.tracking import content

GPU = {
    "uuid": "GPU-0",
    "looks": 10,
    "power_w_mean": 650.5,
    "power_limit_w": None,
    "throttled": {"software power cap": 0.5},
    "foreign_processes": [4711, 4712],
}


def test_each_devices_conditions_are_scalars_with_its_number(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "run", conditions=[GPU, {**GPU, "throttled": {}, "foreign_processes": []}])
    assert {name: value for name, value in content.summary(result).items() if name.startswith("device_")} == {
        "device_seconds": 6,
        "device_0_looks": 10,
        "device_0_power_w_mean": 650.5,
        "device_0_throttled_software_power_cap": 0.5,
        "device_0_foreign_processes": 2,
        "device_0_unrecognised_processes": 0,
        "device_0_uuid": "GPU-0",
        "device_1_looks": 10,
        "device_1_power_w_mean": 650.5,
        "device_1_foreign_processes": 0,
        "device_1_unrecognised_processes": 0,
        "device_1_uuid": "GPU-0",
    }


def test_a_run_that_is_not_ok_has_its_warnings_and_no_conditions(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "run", status="failed", reason="exit status 1", measurement=None)
    assert content.summary(result) == {
        "status": "failed",
        "reason": "exit status 1",
        "warnings": "imprecise, busy_machine",
    }
    assert content.history(result) == []


def test_the_label_that_the_runs_are_grouped_by_names_the_engine(run_folder: Made, tmp_path: Path) -> None:
    result, _ = run_folder(tmp_path / "run", framework="some_trainer (fast)", engine="fast")
    assert content.config(result)["framework"]["label"] == "some_trainer (fast)"
    assert content.config(result)["engine"] == "fast"
