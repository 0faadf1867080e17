"""`python -m mfubench.report` on folders as they are found: good, empty, torn, foreign, doubled."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mfubench.report.__main__ import FORMATS, main
from mfubench.result import Result, write_result

Made = Callable[..., Result]


def report(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mfubench.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(result: Made, tmp_path: Path) -> Path:
    """Two runs that are ok."""
    for job, batch_size in (("0", 1), ("1", 2)):
        (tmp_path / "runs" / job).mkdir(parents=True)
        made = result(f"batch_size={batch_size}", provenance={"folder": f"/runs/{job}"})
        write_result(made, tmp_path / "runs" / job)
    return tmp_path / "runs"


def test_the_command_prints_all_results(folder: Path) -> None:
    done = report(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("200 ms") == 2


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_what_an_output_cannot_encode_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = report(folder, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout and "200 ms" in done.stdout


@pytest.mark.parametrize("where", ["nothing-here", "."])
def test_a_folder_without_results_is_said(tmp_path: Path, where: str) -> None:
    done = report(tmp_path / where)
    assert done.returncode == 2
    assert done.stderr.startswith("mfubench.report: ") and "Traceback" not in done.stderr


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "torn": lambda good: json.dumps(good)[:500],
    "of another program": lambda good: '{"result": 42}',
    "not even JSON": lambda good: "\x00\xff",
    "of another schema version": lambda good: json.dumps(good | {"schema_version": 2}),
    "with a measurement of nothing": lambda good: json.dumps(good | {"measurement": {}}),
    "with words for figures": lambda good: json.dumps(good | {"measurement": {"step_time_s": "fast", "ci95": {}}}),
    "with figures of a run that failed": lambda good: json.dumps(good | {"status": "failed"}),
    "with a step that took no time": lambda good: json.dumps(good).replace('"step_time_s": 0.2', '"step_time_s": 0'),
    "with settings of another shape": lambda good: json.dumps(good | {"settings": []}),
    "with warnings of another shape": lambda good: json.dumps(good | {"warnings": ["old ones"]}),
    "with a history of another shape": lambda good: json.dumps(good | {"history": [1, 2]}),
    "with figures left out": lambda good: json.dumps(good | {"measurement": {**good["measurement"], "mfu": None}}),
    "with a number left out": lambda good: json.dumps(good | {"measurement": {**good["measurement"], "steps": None}}),
    "with rates left out": lambda good: json.dumps(
        good | {"measurement": {k: v for k, v in good["measurement"].items() if k != "tokens_per_second_per_device"}}
    ),
    "with a word for a figure not all have": lambda good: json.dumps(
        good | {"measurement": good["measurement"] | {"of_ceiling": "high"}}
    ),
    "with a history without step times": lambda good: json.dumps(good | {"history": [{"step": 1, "warmup": 0}]}),
    "with a number for a date": lambda good: json.dumps(good | {"started_at": 5}),
    "with a list for a status": lambda good: json.dumps(good | {"status": ["ok"]}),
    "with work that says little": lambda good: json.dumps(good | {"work": {"model": "Llama"}}),
    "with a word for its repeat": lambda good: json.dumps(good | {"settings": good["settings"] | {"repeat": "first"}}),
    "with a figure that is none": lambda good: json.dumps(good).replace('"step_time_s": 0.2', '"step_time_s": NaN'),
    "too deep": lambda good: "[" * 100_000,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_no_result_is_said_and_the_rest_still_reported(
    folder: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "1" / "result.json"
    path.write_text(str(BROKEN[kind](json.loads(path.read_text()))))
    assert main([str(folder)]) == 3
    printed = capsys.readouterr()
    assert printed.out.count("200 ms") == 1
    assert str(path) in printed.err and printed.err.count("mfubench.report: ") == 1
    assert main([str(folder), "--format", "html", "--output", str(tmp_path / "page.html")]) == 3


def test_a_file_that_no_page_can_be_made_of_is_said_and_the_page_made_of_the_rest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"plan": {"command": 5}}))
    assert main([str(folder), "--format", "html", "--output", str(tmp_path / "page.html")]) == 3
    assert str(path) in capsys.readouterr().err
    assert "200 ms" in (tmp_path / "page.html").read_text()


def test_a_folder_named_like_a_result_and_one_that_is_empty_are_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "odd" / "result.json").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert main([str(folder), str(tmp_path / "empty"), str(tmp_path / "gone")]) == 3
    printed = capsys.readouterr()
    assert printed.out.count("200 ms") == 2
    assert (
        f"no result.json in or below {tmp_path / 'empty'}" in printed.err
        and f"there is no {tmp_path / 'gone'}" in printed.err
    )


def test_a_run_counts_once_however_often_it_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder / "0", folder / "2")
    assert main([str(folder), str(folder / "0"), str(folder / "1" / "result.json")]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("200 ms") == 2
    assert printed.err.splitlines() == [
        f"mfubench.report: {folder / '2' / 'result.json'} is the same run as {folder / '0' / 'result.json'}; it counts once"
    ]


def test_failures_alone_are_a_table_without_figures(
    result: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for job, status in (("0", "out_of_memory"), ("1", "stalled")):
        (tmp_path / job).mkdir()
        write_result(result(f"seed={job}", status=status, reason=f"it {status}", measurement=None), tmp_path / job)
    for form in FORMATS:
        assert main([str(tmp_path), "--format", form]) == 3
        printed = capsys.readouterr()
        assert "stalled" in printed.out and printed.err == "", form
    assert main([str(tmp_path)]) == 3
    assert "hf_trainer full · seed 1: stalled: it stalled" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMATS)
def test_the_report_is_written_where_it_is_wanted(
    folder: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--format", form, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"mfubench.report: written to {tmp_path / 'out'}\n")
    text = (tmp_path / "out").read_text()
    if form == "json":
        assert [run["batch_size"] for run in json.loads(text)] == [1, 2]
    else:
        assert {"table": "200 ms", "csv": "step_time_s_ci95_low", "markdown": "| setting |", "html": "<html"}[
            form
        ] in text


def test_an_output_that_can_not_be_written_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--output", str(folder)]) == 1
    assert capsys.readouterr().err.startswith("mfubench.report: can't write")


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_full_disk_is_said(folder: Path, form: str) -> None:
    done = report(folder, "--format", form, "--output", "/dev/full")
    assert done.returncode == 1
    assert (
        done.stderr.startswith("mfubench.report: can't write /dev/full: No space left") and "\n" not in done.stderr[:-1]
    )
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mfubench.report", str(folder), "--format", form]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "mfubench.report: can't write standard output: No space left on device\n"


def test_a_report_that_can_not_be_finished_leaves_the_old_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reports").mkdir()
    old = tmp_path / "reports" / "table"
    old.write_text("the old one")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert main([str(folder), "--output", str(old)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert old.read_text() == "the old one" and list(old.parent.iterdir()) == [old]


def test_a_tolerance_that_is_no_fraction_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main([str(folder), "--against", str(folder), "--tolerance", "5"])
    assert refused.value.code == 2 and "2 % are 0.02" in capsys.readouterr().err


def test_what_a_terminal_would_obey_is_not_printed(
    result: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b]0;pwned\x07\x1b[31m[bold]red"
    made = result(name=hostile, framework=hostile, status="failed", reason=hostile, measurement=None)
    write_result(made, tmp_path)
    for form in ("table", "markdown"):
        main([str(tmp_path), "--format", form])
        assert (
            "\x1b]" not in (out := capsys.readouterr().out) and "\x07" not in out and "[bold]" in out.replace("\\", "")
        )
