"""python -m mfubench.tracking: uploads, and the workspace that compares what was uploaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from logged import HISTORY, SUMMARY, Made, columns, own, to
from standin import KEY, StandIn

from mfubench.tracking import track
from mfubench.tracking.__main__ import main
from mfubench.tracking.workspace import BY_STEP, save

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1")  # wandb-workspaces' own


@pytest.fixture(autouse=True)
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def test_an_upload_can_be_repeated_and_stays_one_run(
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_folder(tmp_path / "sweep" / "0")
    run_folder(tmp_path / "sweep" / "1", name="another")
    for _ in range(2):
        assert main([str(tmp_path / "sweep")]) == 0
    assert [run.times_begun for run in server.runs.values()] == [2, 2]
    for run in server.runs.values():
        assert columns(run.history) == HISTORY
        assert own(run.summary) == SUMMARY
    lines = capsys.readouterr().out.splitlines()
    addresses = [f"{server.address}/someone/mfubench/runs/{run_id}" for run_id in server.runs]
    assert [line.split()[-1] for line in lines] == 2 * addresses
    assert f"{tmp_path / 'sweep' / '1'}: another logged online as run " in lines[1]


def test_an_upload_says_what_it_cannot_read_and_goes_on(
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    capsys: pytest.CaptureFixture[str],
) -> None:
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


def test_runs_that_were_logged_offline_are_uploaded_under_the_same_id(
    run_folder: Made, tmp_path: Path, server: StandIn
) -> None:
    result, folder = run_folder(tmp_path / "run")
    assert track(result, to("offline"), folder) is None
    assert server.requests == []
    assert main([str(folder)]) == 0
    [run_id] = server.runs
    [offline] = (folder / "wandb").glob("offline-run-*")
    assert offline.name.endswith(run_id)


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_the_environments_mode_is_obeyed_unless_another_is_given(
    mode: str,
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    run_folder(tmp_path / "run")
    assert main([str(tmp_path)]) == 0
    said = "logged offline" if mode == "offline" else "WANDB_MODE is disabled, so nothing is uploaded"
    assert said in capsys.readouterr().out and server.requests == []
    assert main([str(tmp_path), "--mode", "online"]) == 0
    assert len(server.runs) == 1


@pytest.fixture
def compared(run_folder: Made, tmp_path: Path, server: StandIn) -> dict[str, str]:
    """Ids of the uploaded runs of two frameworks, one of them not ok, by their names; the workspace is saved."""
    run_folder(tmp_path / "sweep" / "0", name="first")
    run_folder(tmp_path / "sweep" / "1", name="second", framework="other_trainer")
    died = {"status": "out_of_memory", "reason": "CUDA out of memory", "measurement": None}
    run_folder(tmp_path / "sweep" / "2", name="third", framework="other_trainer", **died)
    assert main([str(tmp_path / "sweep"), "--workspace"]) == 0
    return {run.name: run_id for run_id, run in server.runs.items()}


def spec(server: StandIn) -> dict[str, Any]:
    [view] = server.views.values()
    section: dict[str, Any] = json.loads(view["spec"])["section"]
    return section


def test_the_workspace_compares_frameworks_steps_and_batch_sizes(compared: dict[str, str], server: StandIn) -> None:
    [section] = spec(server)["panelBankConfig"]["sections"]
    *bars, throughput, memory, differences = section["panels"]
    bars, steps = bars[:3], bars[3:]
    assert {bar["viewType"] for bar in bars} == {"Bar Chart"}
    assert [bar["config"]["metrics"] for bar in bars] == 3 * [["mfu"]]
    groups = [(bar["config"].get("groupBy"), bar["config"].get("groupAgg")) for bar in bars]
    assert groups == [("framework.value.label", "mean"), ("batch_size.value", "mean"), (None, None)]
    assert {line["viewType"] for line in steps} == {"Run History Line Plot"}
    assert {line["config"]["xAxis"] for line in steps} == {"step"}
    shown = ["step_time_s", "tokens_per_second_per_device", "mfu", "hfu", "profiled_tflop"]
    assert [line["config"]["metrics"] for line in steps] == [[name] for name in shown]
    assert throughput["viewType"] == memory["viewType"] == "Scatter Plot"
    assert throughput["config"]["xAxis"] == memory["config"]["xAxis"] == "config:batch_size.value"
    assert throughput["config"]["yAxis"] == "summary:tokens_per_second_per_device"
    assert memory["config"]["yAxis"] == "summary:peak_memory_bytes"
    assert (differences["viewType"], differences["config"]["diffOnly"]) == ("Run Comparer", "split")
    assert section["isOpen"]


def test_what_the_panels_plot_is_in_the_runs(compared: dict[str, str], server: StandIn) -> None:
    run = server.runs[compared["second"]]
    assert run.config["framework"]["value"]["label"] == "other_trainer"
    assert run.config["batch_size"]["value"] == 2
    assert {"mfu", "tokens_per_second_per_device", "peak_memory_bytes"} <= run.summary.keys()
    assert all({"step", *BY_STEP} <= row.keys() for row in run.history)
    columns = [name.removeprefix("summary:") for name in spec(server)["runSets"][0]["runFeed"]["columnOrder"]]
    assert set(columns) <= {"run:displayName", *run.summary}


def test_the_workspace_shows_these_runs_and_all_of_them_each_framework_in_its_colour(
    compared: dict[str, str], server: StandIn
) -> None:
    [runs] = spec(server)["runSets"]
    [chosen] = runs["filters"]["filters"]
    assert (chosen["key"], chosen["op"]) == ({"section": "run", "name": "name"}, "IN")
    assert set(chosen["value"]) == set(compared.values())
    colours = {name: spec(server)["customRunColors"][run_id] for name, run_id in compared.items()}
    assert colours["first"] != colours["second"] == colours["third"]
    assert spec(server)["settings"]["maxRuns"] == 3


def test_a_workspace_of_the_same_name_is_replaced(
    compared: dict[str, str], server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [name] = server.views
    folder = f"{tmp_path.name}/sweep"
    assert server.views[name]["displayName"] == f"mfubench {folder}"
    assert main([str(tmp_path / "sweep"), "--workspace"]) == 0
    assert list(server.views) == [name]
    address = f"{server.address}/someone/mfubench?nw={name.removeprefix('nw-').removesuffix('-v')}"
    assert capsys.readouterr().out.splitlines()[-1] == f"workspace 'mfubench {folder}': {address}"
    assert main([str(tmp_path / "sweep"), "--workspace", "--name", "study"]) == 0
    assert [view["displayName"] for view in server.views.values()] == [f"mfubench {folder}", "study"]


def test_a_server_that_cannot_say_what_is_saved_gets_the_workspace(
    run_folder: Made, tmp_path: Path, server: StandIn
) -> None:
    run_folder(tmp_path / "run")
    server.failing, server.failure = "View", 400
    assert main([str(tmp_path), "--workspace", "--name", "study"]) == 0
    assert [view["displayName"] for view in server.views.values()] == ["study"]


def test_a_workspace_that_cannot_be_saved_is_a_failure_that_leaves_the_runs(
    run_folder: Made, tmp_path: Path, server: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "run")
    server.failing, server.failure = "UpsertView2", 400
    assert main([str(tmp_path), "--workspace", "--name", "study"]) == 1
    assert "workspace 'study' not saved in someone/mfubench: " in capsys.readouterr().out
    assert len(server.runs) == 1


def test_a_workspace_that_cannot_be_saved_keeps_no_other_project_from_its_own(
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result, _ = run_folder(tmp_path / "0")
    theirs = {"name": "wandb", "mode": "auto", "project": "theirs", "entity": None}
    run_folder(tmp_path / "1", settings={**result.settings, "tracking": theirs})

    def refused(name: str, entity: str, project: str, frameworks: Any) -> str:
        if project != "theirs":
            raise ValueError("no such project")
        return save(name, entity, project, frameworks)

    monkeypatch.setattr("mfubench.tracking.__main__.save", refused)
    assert main([str(tmp_path), "--workspace", "--name", "study"]) == 1
    printed = capsys.readouterr().out
    assert "workspace 'study' not saved in someone/mfubench: " in printed and len(server.views) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workspace", "--mode", "offline"], "runs that are on W&B: --mode online"),
        (["--workspace", "--name", "a=b+c"], "W&B takes no + ="),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_uploaded(
    flags: list[str],
    words: str,
    run_folder: Made,
    tmp_path: Path,
    server: StandIn,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_folder(tmp_path / "run")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), *flags])
    assert words in capsys.readouterr().err
    assert server.requests == []
