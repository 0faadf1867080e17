"""Results on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from mfubench.result import SCHEMA_VERSION, Result, UnreadableResult, find_results, read_result, write_result
from mfubench.result.result_file import from_content

Made = Callable[..., Result]


def test_a_result_is_read_back_as_it_was_written(result: Made, tmp_path: Path) -> None:
    written = result(warnings=[{"kind": "imprecise", "text": "é ×"}])
    path = write_result(written, tmp_path)
    assert read_result(path) == from_content(asdict(written))  # JSON's keys are strings
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION


def test_a_figure_that_is_not_a_number_is_never_written(result: Made, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(result(measurement={"mfu": float("nan")}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_result_without_settings_is_told_from_one(result: Made, tmp_path: Path) -> None:
    path = write_result(result(settings={}), tmp_path)
    with pytest.raises(UnreadableResult, match="its settings lack liger"):
        read_result(path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "x": 2}'])
def test_a_torn_or_foreign_file_is_told_from_a_result(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UnreadableResult, match=r"result\.json"):
        read_result(tmp_path / "result.json")


def test_the_jobs_of_a_sweep_come_in_their_order(result: Made, tmp_path: Path) -> None:
    for job in ("10", "9", "0"):
        (tmp_path / job).mkdir()
        write_result(result(), tmp_path / job)
    assert [path.parent.name for path in find_results([tmp_path])] == ["0", "9", "10"]
