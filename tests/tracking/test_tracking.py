"""The real client, offline and against a server on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from standin import KEY, StandIn

from mfubench import tracking
from mfubench.config import Tracking
from mfubench.report import Result
from mfubench.tracking import main, track

LOG = """
import sys
from pathlib import Path
from mfubench.config import Tracking
from mfubench.report import read
from mfubench.tracking import track
folder = Path(sys.argv[1])
sys.exit(track(read(folder / "result.json"), Tracking("wandb", sys.argv[2], "mfubench", None), folder))
"""
Made = Callable[..., tuple[Result, Path]]
HISTORY = {
    "step": [1, 2, 3, 4, 5, 6],
    "warmup": [1, 1, 0, 0, 0, 0],
    "step_time_s": [1.0, 0.5, 0.25, 0.2, 0.3, 0.25],
    "tokens_per_second_per_device": [512, 1024, 2048, 2560, 512 / 0.3, 2048],
    "mfu": [0.05, 0.1, 0.2, 0.25, 1 / 6, 0.2],
    "hfu": [0.075, 0.15, 0.3, 0.375, 0.25, 0.3],
    "model_tflops_per_second_per_device": [2, 4, 8, 10, 2 / 0.3, 8],
    "hardware_tflops_per_second_per_device": [3, 6, 12, 15, 10, 12],
}
SUMMARY = {
    "status": "ok",
    "steps": 4,
    "warmup_steps": 2,
    "rank": 1,
    "step_time_s": 0.25,
    "step_time_s_ci95_low": 0.2,
    "step_time_s_ci95_high": 0.3,
    "tokens_per_second_per_device": 2048,
    "mfu": 0.2,
    "mfu_ci95_low": 0.16,
    "mfu_ci95_high": 0.25,
    "hfu": 0.3,
    "positions_per_step": 512,
    "peak_memory_bytes": 1_000_000,
    "memory_kind": "resident",
    "profiled_tflop_per_step": 3,
    "model_tflop_per_step": 2,
}


def to(mode: str) -> Tracking:
    return Tracking("wandb", mode, project="mfubench", entity=None)


def offline_file(folder: Path) -> Path:
    [file] = (folder / "wandb").glob("offline-run-*/*.wandb")
    return file


def inspect(file: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=file.parent).stdout


def records(file: Path, kind: str) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in inspect(file).splitlines())
    return [record[kind] for record in found if record["type"] == kind]


def own(figures: dict[str, Any]) -> dict[str, Any]:
    """Without the client's own (_step, _runtime, ...)."""
    return {name: figure for name, figure in figures.items() if not name.startswith("_")}


def columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: pytest.approx([row[name] for row in rows]) for name in own(rows[0])}


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


def test_the_summary_is_the_measurement_in_scalars_and_not_the_last_row(offline: Path) -> None:
    run = json.loads(inspect(offline, "--summary"))
    assert own(run["summary"]) == SUMMARY
    assert (run["state"], run["exit_code"]) == ("finished", 0)


def test_the_run_says_what_it_is_and_its_config_is_nested(offline: Path) -> None:
    [run] = records(offline, "run")
    config = run["config"]["update"]
    assert run["project"] == "mfubench"
    assert run["run_group"] == "a sweep"
    assert run["job_type"] == "lora"
    assert run["display_name"] == "some_trainer-llama-tiny-lora-ddp-none-bs2"
    assert run["tags"] == ["some_trainer", "lora", "ok"]
    assert config["mode"] == {"name": "lora", "rank": 8}
    assert config["model"]["architecture"]["hidden_size"] == 64
    assert config["framework"]["base"] == {"batch": "${batch_size}"}
    assert config["provenance"]["versions"]["torch"] == "2.13.0"
    assert config["work"]["world_size"] == 2
    assert (config["hardware"]["name"], config["hardware"]["device"]) == ("auto", "cpu")


def test_a_run_that_is_not_ok_logs_its_status_and_no_numbers(run_folder: Made, tmp_path: Path) -> None:
    died = {"status": "out_of_memory", "reason": "CUDA out of memory", "measurement": None, "withheld": {"mfu": 0.9}}
    result, folder = run_folder(tmp_path / "run", **died)
    assert track(result, to("offline"), folder) is None
    run = json.loads(inspect(offline_file(folder), "--summary"))
    assert own(run["summary"]) == {"status": "out_of_memory", "reason": "CUDA out of memory"}
    assert (run["state"], run["exit_code"], run["tags"][-1]) == ("failed", 1, "out_of_memory")
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


def test_the_command_line_is_in_nothing_that_is_written_or_sent(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for mode in ("online", "offline"):
        _, folder = run_folder(tmp_path / mode)
        subprocess.run([sys.executable, "-c", LOG, folder, mode, "token=hunter2"], check=True)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert any(path.suffix == ".wandb" for path in files)
        assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    assert [run.program for run in server.runs.values()] == ["mfubench"]
    assert b"hunter2" not in server.bodies
    assert b"some_trainer" in server.bodies


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
    assert (run.group, run.job_type, run.tags) == ("a sweep", "lora", ["some_trainer", "lora", "ok"])
    assert run.config["mode"]["value"] == {"name": "lora", "rank": 8}
    assert run.exit_code == 0


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


def test_an_upload_can_be_repeated_and_stays_one_run(
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    run_folder(tmp_path / "sweep" / "0")
    run_folder(tmp_path / "sweep" / "1", name="another")
    for _ in range(2):
        assert main([str(tmp_path / "sweep")]) == 0
    assert [run.times_begun for run in server.runs.values()] == [2, 2]
    for run in server.runs.values():
        assert columns(run.history) == HISTORY
        assert own(run.summary) == SUMMARY
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == 2 * list(server.runs)
    assert f"{tmp_path / 'sweep' / '1'}: another logged online as run " in lines[1]


def test_an_upload_says_what_it_cannot_read_and_goes_on(
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    result, torn = run_folder(tmp_path / "0")
    (torn / "result.json").write_text('{"name": ')
    untracked = {"name": "none", "mode": "disabled", "project": None, "entity": None}
    run_folder(tmp_path / "1", settings={**result.settings, "tracking": untracked})
    assert main([str(tmp_path / "0"), str(tmp_path / "1"), "--project", "theirs", "--entity", "team"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "result.json can't be read" in first
    assert "logged online" in second
    [run_id] = server.runs
    assert f"POST /files/someone/theirs/{run_id}/file_stream" in server.requests


def test_an_upload_of_nothing_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert f"no result.json in or below {tmp_path}" in capsys.readouterr().err


def test_a_server_that_is_not_there_costs_seconds_and_a_warning(
    run_folder: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "INIT_TIMEOUT_S", 2.0)
    result, folder = run_folder(tmp_path / "run")
    start = time.monotonic()
    warning = track(result, to("auto"), folder)
    assert time.monotonic() - start < 6
    assert warning is not None
    assert "connection refused" in warning
    assert warning.endswith(f"to upload it later: python -m mfubench.tracking {folder}")
    assert capfd.readouterr() == ("", "")


def test_a_refused_key_is_a_warning_and_nothing_else_is_printed_until_the_process_has_ended(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    _, folder = run_folder(tmp_path / "run")
    process = subprocess.run([sys.executable, "-c", LOG, folder, "auto"], capture_output=True, text=True)
    [warning] = process.stderr.splitlines()
    assert process.stdout == ""
    assert "401" in warning
    assert "x" * 40 not in warning
    assert server.runs == {}


@pytest.mark.parametrize(
    ("failing", "failure", "words"), [("/file_stream", 503, "Timed out"), ("CommitArtifact", 400, "error 400")]
)
def test_a_server_that_fails_in_the_middle_is_a_warning(
    failing: str,
    failure: int,
    words: str,
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT_S", 1.0)
    server.failing, server.failure = failing, failure
    result, folder = run_folder(tmp_path / "run")
    warning = track(result, to("auto"), folder)
    assert warning is not None
    assert words in warning
    server.failing = ""
    assert track(result, to("auto"), folder) is None
    [run] = server.runs.values()
    assert columns(run.history) == HISTORY


def test_online_without_a_key_is_a_warning_and_never_a_question(
    run_folder: Made, tmp_path: Path, server: StandIn
) -> None:
    result, folder = run_folder(tmp_path / "run")
    warning = track(result, to("online"), folder)
    assert warning is not None
    assert "`wandb login`" in warning
    assert server.requests == []


def test_disabled_does_not_even_import_wandb(run_folder: Made, tmp_path: Path) -> None:
    _, folder = run_folder(tmp_path / "run")
    command = [sys.executable, "-X", "importtime", "-c", LOG, folder, "disabled"]
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert "mfubench.tracking" in imported
    assert "wandb" not in imported
    assert [path.name for path in folder.iterdir()] == ["result.json"]
