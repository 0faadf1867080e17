"""The probe under torch.compile: it must not change what is captured."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mfubench.records.reading import read_records


@pytest.mark.sample(2)
@pytest.mark.parametrize("profile", ["", "1"])
def test_torch_compile_captures_the_same_graphs_after_a_model_of_which_few_classes_are_watched(
    tmp_path: Path, run: Callable, trainers: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    monkeypatch.setenv("MFUBENCH_PROFILE_FLOPS", profile)
    bare = run(trainers / "compiled.py", "--after-eager", records=None)
    probed = run(trainers / "compiled.py", "--after-eager", records=tmp_path)
    assert probed.returncode == 0, probed.stderr
    assert json.loads(probed.stdout) == json.loads(bare.stdout)
    lines = map(json.loads, (tmp_path / "rank0.jsonl").read_text().splitlines())
    forwards = Counter(line["root"] for line in lines if line["event"] == "forward")
    assert forwards == {0: 5} | {root: 3 for root in range(1, 10)}


def test_torch_compile_captures_the_same_graphs_with_and_without_the_probe(
    tmp_path: Path, run: Callable, trainers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFUBENCH_PROFILE_FLOPS", "1")  # the second step's counter is the probe's code too
    bare = run(trainers / "compiled.py", records=None)
    probed = run(trainers / "compiled.py", records=tmp_path)
    assert bare.returncode == probed.returncode == 0, probed.stderr
    said = json.loads(bare.stdout)
    assert json.loads(probed.stdout) == said
    assert len(said) == 9
    assert said["method, whole"]["breaks"] == 0 < said["method, broken"]["breaks"]

    # Every step of every model, of those too whose call is one compiled graph in which no other call is seen.
    lines = map(json.loads, (tmp_path / "rank0.jsonl").read_text().splitlines())
    assert Counter(line["root"] for line in lines if line["event"] == "forward") == {root: 3 for root in range(9)}

    (record,) = read_records(tmp_path).ranks  # of the last model, which has compiled blocks
    assert len(record.step_times_s) == 2
    assert record.work["compiled"] is True
    assert record.work["recomputation"] is None  # a compiled block may hide it
    assert record.errors == ()
