"""A run as W&B gets it: the real client, offline and against a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from logged import (
    CONFIG,
    HISTORY,
    LOG,
    STARTED,
    SUMMARY,
    TAGS,
    Made,
    columns,
    inspect,
    offline_file,
    own,
    records,
    to,
)
from made_results import h200_lora
from standin import KEY, StandIn

from mfubench.config import Tracking
from mfubench.result import read_result
from mfubench.tracking import track


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory, run_folder: Made) -> Path:
    """The file of an ok run logged by somebody who is not logged in."""
    result, folder = run_folder(tmp_path_factory.mktemp("offline") / "run")
    assert track(result, to("auto"), folder) is None
    return offline_file(folder)


def test_history_is_a_row_per_step_period_on_the_step_axis(offline: Path) -> None:
    rows = [own(row["item"]) for row in records(offline, "history")]
    assert columns(rows) == HISTORY
    axes = {metric["name"]: metric.get("step_metric") for metric in records(offline, "metric")}
    assert axes == {name: None if name in ("step", "warmup") else "step" for name in HISTORY}
    hidden = [metric["name"] for metric in records(offline, "metric") if metric.get("options", {}).get("hidden")]
    assert hidden == ["step", "warmup"]


def test_the_summary_is_the_measurement_in_scalars_and_not_the_last_row(offline: Path) -> None:
    run = json.loads(inspect(offline, "--summary"))
    assert own(run["summary"]) == SUMMARY
    assert (run["state"], run["exit_code"]) == ("finished", 0)


def test_the_run_says_what_it_is_and_its_config_is_what_describes_it(offline: Path) -> None:
    [run] = records(offline, "run")
    assert run["project"] == "mfubench"
    assert run["run_group"] == "a sweep"
    assert run["job_type"] == "lora"
    assert run["display_name"] == "some_trainer-llama-tiny-lora-ddp-none-bs2"
    assert run["tags"] == TAGS
    assert own(run["config"]["update"]) == CONFIG


def test_the_times_are_those_of_the_run_and_not_of_its_upload(offline: Path) -> None:
    rows = [row["item"]["_timestamp"] - STARTED for row in records(offline, "history")]
    assert rows == pytest.approx([1.0, 1.5, 1.75, 1.95, 2.25, 2.5])  # the sums of the step times
    *_, last = [each["update"] for each in records(offline, "summary") if "_runtime" in each["update"]]
    assert (last["_runtime"], last["_wandb"]) == (300.4, {"runtime": 300})


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_step_that_is_explained_has_its_scalars_and_a_table_of_kernels(
    mode: str, run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    result, folder = run_folder(tmp_path / "run", explanation=h200_lora())
    assert track(result, to(mode), folder) is None
    if mode == "offline":
        summary = json.loads(inspect(offline_file(folder), "--summary"))["summary"]
        history = [row["item"] for row in records(offline_file(folder), "history")]
        [table] = (
            json.loads(path.read_text()) for path in folder.glob("wandb/offline-run-*/files/media/table/kernels*.json")
        )
        assert table["columns"] == ["kernel", "category", "calls_per_step", "ms_per_step"]
        assert table["data"][1] == ["nvjet_tst_128x256", "matmul", 96, pytest.approx(60)]
        assert history[-1]["_timestamp"] - STARTED == pytest.approx(2.5)
    else:
        [run] = server.runs.values()
        summary, history = run.summary, run.history
    assert own(summary).keys() - SUMMARY.keys() >= {"time/idle_ms", "time/communication_ms", "waterfall/clock"}
    assert summary["time/idle_ms"] == pytest.approx(75.3) and summary["waterfall/idle"] == pytest.approx(
        0.1523, abs=1e-4
    )
    assert len(history) == 6 and ["table-file" in str(row) for row in history] == [False] * 5 + [True]


def test_they_are_so_on_a_server_too_however_often_the_run_is_uploaded(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    result, folder = run_folder(tmp_path / "run")
    for _ in range(2):
        assert track(result, to("online"), folder) is None
        [run] = server.runs.values()
        assert (run.summary["_runtime"], run.summary["_wandb"]) == (300.4, {"runtime": 300})
        assert own(run.summary) == SUMMARY


def test_they_are_so_if_the_offline_run_is_synced_by_wandbs_own_command(
    offline: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    command = [sys.executable, "-m", "wandb", "sync", offline.parent]
    subprocess.run(command, check=True, capture_output=True, cwd=offline.parent)
    [run] = server.runs.values()
    assert (run.summary["_runtime"], run.summary["_wandb"]) == (300.4, {"runtime": 300})
    assert own(run.summary) == SUMMARY and columns(run.history) == HISTORY


def test_a_run_that_is_not_ok_logs_its_status_and_no_numbers(run_folder: Made, tmp_path: Path) -> None:
    died = {
        "status": "out_of_memory",
        "reason": "CUDA out of memory",
        "measurement": None,
        "withheld": {"mfu": 0.9},
        "warnings": [],
    }
    result, folder = run_folder(tmp_path / "run", **died)
    assert track(result, to("offline"), folder) is None
    run = json.loads(inspect(offline_file(folder), "--summary"))
    assert own(run["summary"]) == {"status": "out_of_memory", "reason": "CUDA out of memory"}
    assert (run["state"], run["exit_code"], run["tags"][3]) == ("failed", 1, "out_of_memory")
    assert records(offline_file(folder), "history") == []


def test_jobs_of_one_process_are_separate_runs_that_leave_nothing_behind(
    run_folder: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    for name in ("first", "second"):
        result, folder = run_folder(tmp_path / name, name=name)
        assert track(result, to("auto"), folder) is None
    [first] = records(offline_file(tmp_path / "first"), "run")
    [second] = records(offline_file(tmp_path / "second"), "run")
    assert (first["display_name"], second["display_name"]) == ("first", "second")
    assert first["run_id"] != second["run_id"]
    assert [name for name in os.environ if name.startswith(("WANDB_", "OTEL_"))] == []
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_nothing_is_sent_by_who_is_not_logged_in(mode: str, run_folder: Made, tmp_path: Path, server: StandIn) -> None:
    result, folder = run_folder(tmp_path / "run")
    assert track(result, to(mode), folder) is None
    assert offline_file(folder)
    assert server.requests == []


@pytest.mark.parametrize("key_is_in", ["environment", "netrc"])
def test_a_logged_in_user_gets_the_run_online(
    key_is_in: str, run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key_is_in == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    else:
        (tmp_path / "netrc").write_text(f"machine {server.address.removeprefix('http://')} login user password {KEY}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    result, folder = run_folder(tmp_path / "run")
    assert track(result, to("auto"), folder) is None
    [run] = server.runs.values()
    assert columns(run.history) == HISTORY
    assert own(run.summary) == SUMMARY
    assert (run.group, run.job_type, run.tags) == ("a sweep", "lora", TAGS)
    assert run.config["mode"]["value"] == {"name": "lora", "rank": 8}
    assert run.exit_code == 0


def test_what_the_server_has_is_what_was_logged(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    _, folder = run_folder(tmp_path / "run")
    assert track(read_result(folder / "result.json"), to("online"), folder) is None
    [run] = server.runs.values()
    assert own({name: each["value"] for name, each in run.config.items()}) == CONFIG
    written = json.loads((folder / "result.json").read_text())["history"]
    assert [own(row) for row in run.history] == [{**row, "profiled_tflop": 3.0} for row in written]


def test_no_secret_of_the_environment_or_the_command_line_is_in_what_is_written_or_sent(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"WANDB_API_KEY": KEY, "HF_TOKEN": "hunter2", "A_SECRET": "hunter3", "DB_PASSWORD_FILE": "hunter4"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    _, folder = run_folder(tmp_path / "run")
    for mode in ("online", "offline"):
        subprocess.run([sys.executable, "-c", LOG, folder, mode, "token=hunter5"], check=True)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".wandb", ".log"}
    for value in (*secrets.values(), "hunter5"):
        assert value.encode() not in server.bodies
        assert [path for path in files if value.encode() in path.read_bytes()] == []
    assert b"some_trainer" in server.bodies
    assert [run.program for run in server.runs.values()] == ["mfubench"]


def test_the_variable_wins_over_auto_and_the_config_over_the_variable(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    result, folder = run_folder(tmp_path / "run")
    assert track(result, to("auto"), folder) is None
    assert server.requests == []
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert track(result, to("auto"), folder) is None
    assert server.requests == []
    assert track(result, to("online"), folder) is None
    assert len(server.runs) == 1


def test_the_environments_names_are_taken_where_the_run_has_none(
    run_folder: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PROJECT": "theirs", "ENTITY": "team", "NAME": "mine", "TAGS": "a100, lora,night"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    result, folder = run_folder(tmp_path / "run")
    assert track(result, Tracking("wandb", "offline"), folder) is None
    [run] = records(offline_file(folder), "run")
    assert (run["project"], run["entity"], run["display_name"]) == ("theirs", "team", "mine")
    assert run["tags"] == [*TAGS, "a100", "night"]
    result, folder = run_folder(tmp_path / "another")
    assert track(result, Tracking("wandb", "offline", "given", "us"), folder) is None
    [run] = records(offline_file(folder), "run")
    assert (run["project"], run["entity"]) == ("given", "us")


def test_a_run_without_any_projects_name_is_in_mfubench(run_folder: Made, tmp_path: Path) -> None:
    result, folder = run_folder(tmp_path / "run")
    assert track(result, Tracking("wandb", "offline"), folder) is None
    assert records(offline_file(folder), "run")[0]["project"] == "mfubench"


def test_wandb_is_quiet_where_nothing_can_be_written_in_the_home_folder(
    run_folder: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", "/proc/nobody")
    result, folder = run_folder(tmp_path / "run")
    assert track(result, to("offline"), folder) is None
    assert offline_file(folder)
    assert capfd.readouterr() == ("", "")


def test_the_files_of_the_run_are_an_artifact_without_a_huge_log(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    result, folder = run_folder(tmp_path / "run", name="some/trainer:v2 bs2")
    for name in ("plan.json", "trainer.json", "unrelated.bin"):
        (folder / name).write_text(name)
    (folder / "framework.log").write_bytes(b"x" * 5_000_000)
    assert track(result, to("auto"), folder) is None
    [artifact] = server.artifacts.values()
    assert (artifact["artifactTypeName"], artifact["artifactCollectionName"]) == (
        "mfubench-result",
        "some-trainer-v2-bs2",
    )
    sent = server.files.keys() - {"manifest", "config.yaml", "wandb-summary.json"}
    assert sent == {"result.json", "plan.json", "trainer.json"}
    assert server.files["result.json"] == (folder / "result.json").read_bytes()


def test_files_that_a_result_names_elsewhere_are_not_uploaded(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (tmp_path / "private").write_text("hunter2")
    result, folder = run_folder(
        tmp_path / "run", plan={"other_files": {"../private": "", str(tmp_path / "private"): ""}}
    )
    (folder / "framework.log").symlink_to(tmp_path / "private")
    assert track(result, to("auto"), folder) is None
    assert server.files.keys() - {"manifest", "config.yaml", "wandb-summary.json"} == {"result.json"}
    assert b"hunter2" not in server.bodies


def test_disabled_does_not_even_import_wandb(run_folder: Made, tmp_path: Path) -> None:
    _, folder = run_folder(tmp_path / "run")
    command = [sys.executable, "-X", "importtime", "-c", LOG, folder, "disabled"]
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert "mfubench.tracking" in imported
    assert "wandb" not in imported
    assert [path.name for path in folder.iterdir()] == ["result.json"]
