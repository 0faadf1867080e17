"""The probe under torch.compile: it must not change what is captured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mfubench.records import read


def test_torch_compile_captures_the_same_graphs_with_and_without_the_probe(
    tmp_path: Path, run: Callable, trainers: Path
) -> None:
    bare = run(trainers / "compiled.py", records=None)
    probed = run(trainers / "compiled.py", records=tmp_path)
    assert bare.returncode == probed.returncode == 0, probed.stderr
    said = json.loads(bare.stdout)
    assert json.loads(probed.stdout) == said
    assert len(said) == 8
    assert said["method, whole"]["breaks"] == 0 < said["method, broken"]["breaks"]

    (record,) = read(tmp_path).ranks  # of the last model, which has compiled blocks
    assert len(record.step_times_s) == 2
    assert record.work["compiled"] is True
    assert record.work["recomputation"] is None  # a compiled block may hide it
    assert record.errors == ()
