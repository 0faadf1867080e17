"""Results on disk and in the terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from mfubench.config import Experiment
from mfubench.report import SCHEMA_VERSION, Result, UnreadableResult, find, read, write
from mfubench.report.table import show

MEASUREMENT = {
    "step_time_s": 0.2,
    "ci95": {"step_time_s": [0.19, 0.21]},
    "tokens_per_second_per_device": 2560.0,
    "model_tflops_per_second_per_device": 0.0512,
    "mfu": 0.4,
    "mfu_causal": 0.38,
    "hfu": 0.42,
    "hfu_causal": 0.39,
    "peak_memory_bytes": 3 * 2**29,
    "padding_fraction": 0.0,
}


@pytest.fixture
def result(compose: Callable[..., Experiment]) -> Callable[..., Result]:
    def made(*overrides: str, **changes: object) -> Result:
        ok = Result(
            name="a-run",
            framework="hf_trainer",
            engine=None,
            status="ok",
            reason=None,
            stopped_by=None,
            group=None,
            started_at="2026-01-01T00:00:00+00:00",
            settings=asdict(compose(*overrides)),
            hardware={
                "device_name": "A chip",
                "precision": "fp32",
                "peak_flops_per_second": 0.128e12,
                "peak_dtype": "fp32",
                "peak_source": "a data sheet",
                "peak_measured": False,
            },
            flops=None,
            work=None,
            differences=[],
            measurement=MEASUREMENT,
            withheld=None,
            step_times_s={"0": [0.2, 0.2]},
            history=[],
            warnings=[],
            conventions={},
            plan=None,
            outcome=None,
            provenance={},
        )
        return replace(ok, **changes)  # type: ignore[arg-type]

    return made


def text_of(results: list[Result], width: int = 160) -> str:
    file = io.StringIO()
    show(results, Console(width=width, file=file))
    return file.getvalue()


def test_a_result_is_read_back_as_it_was_written(result: Callable[..., Result], tmp_path: Path) -> None:
    written = result(warnings=["é ×"])
    path = write(written, tmp_path)
    assert asdict(read(path)) == json.loads(json.dumps(asdict(written)))  # JSON's keys are strings
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION


def test_a_figure_that_is_not_a_number_is_never_written(result: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(result(measurement=MEASUREMENT | {"mfu": float("nan")}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_result_without_settings_is_told_from_one(result: Callable[..., Result], tmp_path: Path) -> None:
    path = write(result(settings={}), tmp_path)
    with pytest.raises(UnreadableResult, match="its settings lack framework"):
        read(path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "x": 2}'])
def test_a_torn_or_foreign_file_is_told_from_a_result(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UnreadableResult, match=r"result\.json"):
        read(tmp_path / "result.json")


def test_the_jobs_of_a_sweep_come_in_their_order(result: Callable[..., Result], tmp_path: Path) -> None:
    for job in ("10", "9", "0"):
        (tmp_path / job).mkdir()
        write(result(), tmp_path / job)
    assert [path.parent.name for path in find([tmp_path])] == ["0", "9", "10"]


def test_what_all_runs_share_stands_above_and_what_differs_is_a_column(result: Callable[..., Result]) -> None:
    lines = text_of([result("batch_size=1"), result("batch_size=4", "mode=lora")]).splitlines()
    assert "framework hf_trainer" in lines[0] and "model llama-tiny" in lines[0]
    assert "batch " not in lines[0]
    header = next(line for line in lines if line.startswith("mode"))
    assert header.split()[:4] == ["mode", "rank", "batch", "status"]
    assert sum("200 ms" in line for line in lines) == 2


@pytest.mark.parametrize(
    ("overrides", "heading"),
    [
        ("+framework.native.optim=adafactor", "native.optim"),
        ("mode.dropout=0", "mode.dropout"),
        ("model.architecture.num_hidden_layers=2", "architecture.num_hidden_layers"),
        ("measurement.steps=8", "measurement.steps"),
    ],
)
def test_rows_that_differ_in_anything_show_in_what(result: Callable[..., Result], overrides: str, heading: str) -> None:
    assert heading in text_of([result("mode=lora"), result("mode=lora", overrides)], width=200)
    assert heading not in text_of([result("mode=lora"), result("mode=full", "model=qwen3-8b")], width=200)


def test_a_native_key_of_the_users_is_never_hidden_behind_the_setting_it_replaces(
    result: Callable[..., Result],
) -> None:
    assert "native.optim adafactor" in text_of([result("+framework.native.optim=adafactor")], width=400)


def test_figures_are_printed_with_their_interval_and_in_percent(result: Callable[..., Result]) -> None:
    text = text_of([result()])
    for cell in ("200 ms ±5.0%", "2,560", "0.0512", "40.0%", "38.0%", "42.0%", "39.0%", "1.50 GiB"):
        assert cell in text
    assert "A chip: peak 0.128 TFLOP/s in fp32, a data sheet" in text


def test_peaks_that_were_measured_are_one_line_with_their_range(result: Callable[..., Result]) -> None:
    known = result().hardware
    assert known is not None
    runs = [result(hardware={**known, "peak_measured": True, "peak_flops_per_second": p}) for p in (0.1e12, 0.12e12)]
    text = text_of(runs)
    assert text.count("A chip") == 1
    assert "A chip: peak 0.1–0.12 TFLOP/s in fp32, measured before each run" in text


def test_a_table_is_not_folded_on_a_narrow_terminal(result: Callable[..., Result]) -> None:
    lines = text_of([result("batch_size=1"), result("batch_size=4")], width=60).splitlines()
    assert sum("200 ms ±5.0%" in line and "39.0%" in line and "1.50 GiB" in line for line in lines) == 2


def test_a_run_that_is_not_ok_shows_its_reason_and_no_figures(result: Callable[..., Result]) -> None:
    bad = result(name="b-run", status="failed", reason="exit status 1", measurement=None, withheld=MEASUREMENT)
    text = text_of([result("batch_size=1"), bad])
    row = next(line for line in text.splitlines() if "failed" in line)
    assert "%" not in row
    assert "batch 2: failed: exit status 1" in text
    assert "b-run: failed: exit status 1" in text_of([bad])


def test_the_command_prints_all_results_and_says_which_are_unreadable(
    result: Callable[..., Result], tmp_path: Path
) -> None:
    for job, batch_size in (("0", 1), ("1", 2)):
        (tmp_path / job).mkdir()
        write(result(f"batch_size={batch_size}"), tmp_path / job)
    command = [sys.executable, "-m", "mfubench.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.count("200 ms") == 2
    (tmp_path / "1" / "result.json").write_text("{")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout.count("200 ms") == 1
    assert "can't be read" in done.stderr


@pytest.mark.parametrize("folder", ["nothing-here", "."])
def test_a_folder_without_results_is_said(tmp_path: Path, folder: str) -> None:
    command = [sys.executable, "-m", "mfubench.report", folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("mfubench.report: ") and "Traceback" not in done.stderr


def test_a_step_counted_in_the_frameworks_process_is_a_line_of_its_run(result: Callable[..., Result]) -> None:
    counted = {"flops": 2.02e12, "expected_flops": 2e12, "apart": 0.01}
    assert "2.02 TFLOP in a step, +1.0% from 2" in text_of([result(flops={"in_situ": counted})])
    hidden = {"flops": None, "expected_flops": 2e12, "apart": None}
    for flops in (
        None,
        {},
        {"in_situ": None},
        {"in_situ": hidden},
    ):  # {}: of a result from before there was such a count
        assert "in situ" not in text_of([result(flops=flops)])


def test_a_reason_that_runs_share_is_given_once(result: Callable[..., Result]) -> None:
    refused = {"status": "unsupported", "reason": "no such kernel", "measurement": None}
    text = text_of([result("seed=1", **refused), result("seed=2", **refused), result("seed=3")])
    assert text.count("no such kernel") == 1 and "seed 1; seed 2: unsupported: no such kernel" in text


def test_the_engine_stands_beside_the_framework(result: Callable[..., Result]) -> None:
    text = text_of(
        [result(framework="tool (open stack)", engine="open-stack"), result(framework="tool", engine="tool")]
    )
    assert [line.split("  ")[0] for line in text.splitlines() if line.startswith("tool")] == [
        "tool (open stack)",
        "tool",
    ]


def test_the_kernels_of_liger_that_were_asked_for_are_named(result: Callable[..., Result]) -> None:
    assert "liger off" in text_of([result()])
    kernels = "liger rope, rms_norm, swiglu, fused_linear_cross_entropy"
    assert kernels in " ".join(text_of([result("liger_kernel=true")]).split())


def test_padding_is_shown_where_there_is_some(result: Callable[..., Result]) -> None:
    padded = result("seed=1", measurement=MEASUREMENT | {"padding_fraction": 0.125})
    assert "padding" not in text_of([result()]) and "padding" not in text_of([result("seed=1"), result("seed=2")])
    assert "padding" in text_of([padded]) and "12.5%" in text_of([padded])
    assert "12.5%" in text_of([padded, result("seed=2")])


def test_what_was_left_to_the_framework_is_not_shown_as_asked(result: Callable[..., Result]) -> None:
    printed = text_of([result(), result("comparison=defaults")])
    assert "its own" in printed and "checkpointing" in printed
    both_columns = next(line for line in printed.splitlines() if "optimizer" in line and "status" in line)
    assert "attention" in both_columns
