"""What a command says around its runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mfubench.report.job_lines import after_all, after_job, before_job
from mfubench.result import Result


def test_a_job_is_announced_with_the_time_that_it_and_the_later_ones_are_taken_to_need() -> None:
    job = ("mode=full", "batch_size=2")
    assert before_job(1, 4, job, []) == "1 of 4 · mode=full batch_size=2"
    assert before_job(2, 4, job, [60.0]) == "2 of 4 · mode=full batch_size=2 · about 3 min left"  # three of 60 s
    assert before_job(4, 4, job, [60.0, 20.0, 40.0]).endswith(" · about 40 s left")
    assert before_job(3, 0, job, [60.0, 20.0]) == "3 · mode=full batch_size=2"  # a sweeper that chooses as it goes
    assert before_job(1, 1, (), []) == "1 of 1"


def test_a_job_ends_with_its_status_and_its_figures_or_the_reason(result: Callable[..., Result]) -> None:
    assert after_job(result(seconds=0.5)) == "ok · step time 500 ms ±1.0% · MFU 16.0%"  # 0.4 at 0.2 s
    failed = result(status="failed", reason="it died\nof this", measurement=None)
    assert after_job(failed) == "failed · it died of this"
    assert after_job(failed, [failed]) == "failed · as above"
    assert after_job(result(seconds=0.5), [result(seconds=0.5)]).startswith("ok · step time")


def test_at_the_end_stands_where_the_results_lie_and_what_shows_and_uploads_them(
    result: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    online, offline = (at(result(), tmp_path / "out puts" / name) for name in ("0", "1"))
    (tmp_path / "out puts" / "1" / "wandb" / "offline-run-1").mkdir(parents=True)
    assert list(after_all([online], tmp_path / "out puts" / "0")) == [
        "results  'out puts/0'",
        "report   python -m mfubench.report 'out puts/0' --format html --output report.html",
    ]
    assert list(after_all([online, offline], tmp_path / "out puts"))[-1] == (
        "upload   python -m mfubench.tracking 'out puts'   (kept offline so far)"
    )
    monkeypatch.chdir(tmp_path / "out puts")
    assert next(after_all([online], tmp_path / "elsewhere")) == f"results  {tmp_path / 'elsewhere'}"


def test_a_run_that_failed_names_its_log(result: Callable[..., Result], tmp_path: Path) -> None:
    failed = at(result(status="failed", reason="it died", measurement=None), tmp_path)
    assert not any("framework.log" in line for line in after_all([failed], tmp_path))
    (tmp_path / "framework.log").write_text("it died\n")
    assert f"log      {tmp_path / 'framework.log'}" in after_all([failed], tmp_path)


def at(result: Result, folder: Path) -> Result:
    """The result, as of a run in the folder."""
    return replace(result, provenance=replace(result.provenance, folder=str(folder)))
