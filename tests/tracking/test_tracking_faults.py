"""A W&B server that isn't there, refuses, hangs or dies: a warning, the result safe, the sweep goes on."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from logged import HISTORY, LOG, Made, columns, offline_file, to
from standin import KEY, Failure, StandIn

from mfubench.result import read_result
from mfubench.tracking import client, track
from mfubench.tracking.__main__ import main


@pytest.fixture(autouse=True)
def quickly_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "INIT_TIMEOUT_S", 2.0)
    monkeypatch.setattr(client, "FINISH_TIMEOUT_S", 1.0)


def test_a_server_that_is_not_there_is_one_warning_in_a_sweep(
    run_folder: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    folders = [run_folder(tmp_path / "sweep" / name)[1] for name in ("0", "1", "2")]
    first, *others = [track(read_result(folder / "result.json"), to("auto"), folder) for folder in folders]
    assert first is not None
    assert first.startswith("not logged to W&B: http://127.0.0.1:") and "doesn't answer (no network?). The" in first
    assert first.endswith(f"logged offline; to upload them all: python -m mfubench.tracking {tmp_path / 'sweep'}")
    assert others == [None, None]
    assert all(offline_file(folder) for folder in folders[1:])
    assert capfd.readouterr() == ("", "")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("failing", "failure", "words"),
    [
        ("", 401, "401"),
        ("", "hang", "doesn't answer"),
        ("UpsertBucket", "die", "doesn't answer"),
        ("/file_stream", 503, "Timed out"),
        ("/file_stream", "hang", "Timed out"),
        ("/file_stream", "die", "Timed out"),
        ("CommitArtifact", 400, "error 400"),
        ("Run", 400, "error 400"),
    ],
)
def test_a_server_that_fails_costs_a_sweep_one_warning_and_one_command_uploads_it_all(
    failing: str,
    failure: Failure,
    words: str,
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server.failing, server.failure = failing, failure
    results = [run_folder(tmp_path / "sweep" / name, name=name) for name in ("0", "1")]
    before = [(folder / "result.json").read_bytes() for _, folder in results]
    warning = track(results[0][0], to("auto"), results[0][1])
    assert warning is not None
    assert words in warning
    asked = len(server.requests)
    assert track(results[1][0], to("auto"), results[1][1]) is None
    assert len(server.requests) == asked
    assert offline_file(results[1][1])
    assert [(folder / "result.json").read_bytes() for _, folder in results] == before

    again = server if failure != "die" else StandIn()
    again.failing = None
    monkeypatch.setenv("WANDB_BASE_URL", again.address)
    monkeypatch.setattr(client, "FINISH_TIMEOUT_S", 20.0)
    assert main([str(tmp_path / "sweep")]) == 0
    assert {run.name for run in again.runs.values()} == {"0", "1"}
    for run in again.runs.values():
        assert columns(run.history) == HISTORY
        assert run.exit_code == 0


def test_the_next_sweep_tries_again(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server.failing, server.failure = "", 401
    for name in ("one", "another", None):
        result, folder = run_folder(tmp_path / str(name), group=name)
        warning = track(result, to("auto"), folder)
        assert warning is not None
        assert ("to upload them all" in warning) == (name is not None)


def test_a_refused_key_is_a_warning_and_nothing_else_is_printed_until_the_process_has_ended(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    _, folder = run_folder(tmp_path / "run", group=None)
    process = subprocess.run([sys.executable, "-c", LOG, folder, "auto"], capture_output=True, text=True)
    [warning] = process.stderr.splitlines()
    assert process.stdout == ""
    assert "401" in warning
    assert warning.endswith(f"to upload it later: python -m mfubench.tracking {folder}")
    assert "x" * 40 not in warning
    assert server.runs == {}


def test_a_service_that_never_ends_is_ended(run_folder: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb-core may hang as its client leaves; a stopped one does for sure."""
    monkeypatch.setattr(client, "TEARDOWN_TIMEOUT_S", 1.0)
    with client.client("offline"):
        (service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
        service.suspend()
    assert not service.is_running() or service.status() == psutil.STATUS_ZOMBIE
    result, folder = run_folder(tmp_path / "run")
    assert track(result, to("offline"), folder) is None and offline_file(folder)


def test_online_without_a_key_is_a_warning_and_never_a_question(
    run_folder: Made, tmp_path: Path, server: StandIn
) -> None:
    result, folder = run_folder(tmp_path / "run")
    warning = track(result, to("online"), folder)
    assert warning is not None
    assert "`wandb login`" in warning
    assert server.requests == []


def test_an_upload_stops_where_no_run_can_be_begun(
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server.failing, server.failure = "", 401
    for name in ("0", "1", "2"):
        run_folder(tmp_path / name)
    assert main([str(tmp_path), "--workspace"]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / '0'} and 2 more: not logged to W&B: ")
    assert line.endswith(f". Later: python -m mfubench.tracking {tmp_path} --workspace")
    assert server.requests.count("RunResumeStatus") == 1


def test_no_process_of_wandbs_outlives_one_that_is_killed_while_a_server_hangs(
    run_folder: Made, tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server.failing, server.failure = "/file_stream", "hang"
    result, folder = run_folder(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", LOG, folder, "auto"], stderr=subprocess.DEVNULL)
    while "Viewer" not in server.requests and process.poll() is None:  # the run has begun, its files are on their way
        time.sleep(0.05)
    service = psutil.Process(process.pid).children(recursive=True)
    assert service
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert psutil.wait_procs(service, timeout=60)[1] == []
    assert json.loads((folder / "result.json").read_text())["name"] == result.name
