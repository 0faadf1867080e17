"""Data of the hub: without a hub, from a cached copy, and the rows of a dataset with either kind of columns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_data import ALPACA, CHATS, WITH_SYSTEM, lines, prepared, turns, written

from mfubench import config
from mfubench.config import ConfigError, Experiment
from mfubench.files.paths import ROOT
from mfubench.workload import Workload
from mfubench.workload.hub import rows_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PREPARE = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from mfubench import config
from mfubench.workload import NoData, hub
from tests.workload.test_data import prepared
data, folder, hub.HUB_TIMEOUT_S = config.Data(**json.loads(sys.argv[1])), Path(sys.argv[2]), float(sys.argv[3])
before = dict(os.environ)
try:
    said = asdict(prepared(data, folder, num_samples=3))
except NoData as error:
    said = {"no_data": str(error)}
print(json.dumps({**said, "same_environment": before == dict(os.environ)}))
"""
HUB = {"name": "alpaca", "hub_id": "eatang/alpaca_long_subset", "padding": "max_length"}


def in_a_process(data: dict[str, Any], folder: Path, patience_s: float = 10, **settings: str) -> subprocess.Popen[str]:
    """A process that prepares the data with a hub cache of its own, beside `folder`, and a hub that isn't there."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    unreachable = {"HF_HOME": str(folder.parent / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PREPARE, json.dumps(data), str(folder), str(patience_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**inherited, **unreachable, **settings})


def said_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What such a process says at its end."""
    said = json.loads(process.communicate(timeout=300)[0])
    assert isinstance(said, dict) and said.pop("same_environment")
    return said


def cached_copy(home: Path, rows: list[Any], commit: str = COMMIT) -> None:
    """The hub's cache with one commit of the dataset, main, as a download leaves it."""
    repository = home / "hub" / "datasets--eatang--alpaca_long_subset"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    (repository / "snapshots" / commit / "data").mkdir(parents=True)
    blob = written(repository / "blobs" / "b10b", rows)
    (repository / "snapshots" / commit / "data" / "train.jsonl").symlink_to(blob)


def test_processes_that_prepare_one_file_at_once_get_one_workload(tmp_path: Path) -> None:
    data = {"name": "jsonl", "path": str(written(tmp_path / "train.jsonl", ALPACA)), "padding": "longest"}
    first, second = (said_by(process) for process in [in_a_process(data, tmp_path / "cache") for _ in range(2)])
    assert first == second
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 1  # nothing is left over
    assert len(lines(first["messages_path"])) == 3


@pytest.mark.parametrize(
    ("settings", "cause"),
    [({}, "Connection refused"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")],
)
def test_without_a_hub_the_end_is_one_line_with_the_way_on(
    tmp_path: Path, settings: dict[str, str], cause: str
) -> None:
    message = said_by(in_a_process(HUB, tmp_path / "cache", 10, **settings))["no_data"]
    assert "\n" not in message
    for told in ("eatang/alpaca_long_subset", cause, "no copy of it in the hub's cache", "data=jsonl data.path=FILE"):
        assert told in message
    assert not (tmp_path / "cache").exists()


def test_a_hub_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = in_a_process(HUB, tmp_path / "cache", patience_s=0.5, HF_ENDPOINT=endpoint)
        message = said_by(process)["no_data"]
    assert "(the hub doesn't answer within 0.5 s)" in message


def test_a_cached_copy_is_used_without_a_hub_and_its_commit_is_recorded(tmp_path: Path) -> None:
    cached_copy(tmp_path / "hf", ALPACA[:2])
    workload = Workload(**said_by(in_a_process(HUB, tmp_path / "cache")))
    assert workload.data_source == f"eatang/alpaca_long_subset@{COMMIT}"
    assert (workload.num_rows, workload.num_samples) == (2, 3)
    assert [row["instruction"] for row in lines(workload.alpaca_path)] == ["Name a tree.", "Add.", "Name a tree."]

    again = in_a_process(HUB, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert Workload(**said_by(again)) == workload  # from what was made, not from the copy
    pinned = config.Data(**HUB, revision=COMMIT)
    assert prepared(pinned, tmp_path / "cache", num_samples=3, dry=True) == workload


def test_a_revision_that_is_not_the_cached_one_is_not_taken_for_it(tmp_path: Path) -> None:
    cached_copy(tmp_path / "hf", ALPACA[:2])
    for revision in ("another-branch", COMMIT.replace("0", "f")):
        message = said_by(in_a_process({**HUB, "revision": revision}, tmp_path / "cache"))["no_data"]
        assert "no copy of it in the hub's cache" in message


def test_a_dry_run_asks_nothing_of_the_hub(tmp_path: Path) -> None:
    """Asked, it would either not be there, which is an error, or name a commit."""
    located = prepared(config.Data(**HUB), tmp_path, dry=True)
    assert located.messages_path == str(tmp_path / "data" / "alpaca-main" / "messages" / "train.jsonl")
    assert (located.data_source, located.num_rows) == ("eatang/alpaca_long_subset@main", None)
    pinned = prepared(config.Data(**HUB, revision=COMMIT), tmp_path, dry=True)
    assert pinned.data_source == f"eatang/alpaca_long_subset@{COMMIT}"
    assert not list(tmp_path.iterdir())


def dataset(rows: list[Any]) -> Any:
    """A dataset made in memory."""
    from datasets import Dataset

    return Dataset.from_list(rows)


def test_rows_of_a_dataset_are_read_by_either_kind_of_columns() -> None:
    alpaca = rows_of(dataset(ALPACA), "a/b", wanted=2)
    assert (alpaca.count, alpaca.first_other, len(alpaca.first)) == (4, {}, 2)
    assert alpaca.first[1].messages == turns("Add.\n\n2 and 3", "5 — fünf 🤖\u2028")["messages"]
    assert alpaca.first[1].alpaca == {"instruction": "Add.", "input": "2 and 3", "output": "5 — fünf 🤖\u2028"}

    chats = rows_of(
        dataset([*CHATS, WITH_SYSTEM]), "a/b", wanted=5
    )  # an `id` and a `name` that a row hasn't are null there
    assert (chats.count, chats.first_other) == (3, {"alpaca": 3})
    assert [sample.messages for sample in chats.first] == [
        turns("Hello?", "Yes.")["messages"],
        turns("a\nb", "")["messages"],
        WITH_SYSTEM["messages"],
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"prompt": "a", "chosen": "b"}], "number 1: no layout that is known; its keys are prompt, chosen"),
        ([*ALPACA, {"instruction": "a", "output": None}], "row, number 5: output is null, not a string"),
        ([{"messages": [{"role": "critic", "content": "a"}]}], r"number 1: messages\[0\].role is 'critic'"),
    ],
)
def test_a_dataset_that_has_no_such_rows_is_an_error(rows: list[Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        rows_of(dataset(rows), "a/b", wanted=2)
    assert error.value.given == "data.hub_id=a/b"


def test_a_dataset_without_rows_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a/b has no rows"):
        rows_of(dataset(CHATS).select([]), "a/b", wanted=2)


def test_a_repository_without_a_split_train_is_an_error(tmp_path: Path) -> None:
    from mfubench.workload.hub import read_snapshot

    written(tmp_path / "test.jsonl", ALPACA)
    with pytest.raises(ConfigError, match="a/b can't be read: Unknown split"):
        read_snapshot(tmp_path, "a/b", wanted=2)
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(ConfigError, match="a/b can't be read: "):
        read_snapshot(tmp_path, "a/b", wanted=2)


def test_the_options_in_conf_are_the_ones_these_tests_read(compose: Callable[..., Experiment]) -> None:
    assert compose("data=alpaca").data == config.Data(**HUB)
