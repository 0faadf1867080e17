"""Reference results: a folder that is right passes, and whatever is changed in it by hand is found."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from made_results import make_result

from mfubench.config import Experiment
from mfubench.flops.step import step_flops
from mfubench.measure.intervals import MIN_STEPS, summarize
from mfubench.measure.metric_table import STEP_RATES
from mfubench.measure.steady_state import steadiness
from mfubench.report.reference.command import main, submission
from mfubench.result import Result, write_result

COMMAND = "python -m mfubench -m batch_size=1,2 gradient_checkpointing=reentrant measurement=quick measurement.steps=24"
PEAK = 312e12
WARMUP, STEPS = 2, 24
SERIES = [0.9, 0.3, *(0.1 + 0.001 * (3 * k % 8) for k in range(STEPS))]
CHANGES: dict[str, tuple[str, Any, str]] = {
    "step time": ("measurement.step_time_s", 0.1, "measurement.step_time_s is 0.1, measured again 0.1035"),
    "mfu": ("measurement.mfu", 0.5, "measurement.mfu is 0.5, measured again"),
    "hfu": ("measurement.hfu_causal", 0.001, "measurement.hfu_causal is 0.001, measured again"),
    "interval": (
        "measurement.ci95.step_time_s",
        [0.10, 0.11],
        "measurement.ci95.step_time_s.0 is 0.1, measured again 0.1025",
    ),
    "interval of a rate": ("measurement.ci95.mfu", [0.0, 1.0], "measurement.ci95.mfu.1 is 1.0, measured again"),
    "reason of its end": (
        "measurement.stopped_because",
        "user",
        "measurement.stopped_because is user, measured again steps",
    ),
    "spread": ("measurement.step_time_s_std", 0.0, "measurement.step_time_s_std is 0.0, measured again 0.002"),
    "flops": ("flops.model_flops", 10**12, "flops.model_flops is 1000000000000, measured again"),
    "parameters": ("flops.trainable_parameters", 1, "flops.trainable_parameters is 1, measured again"),
    "positions": ("measurement.positions_per_step", 1024, "measurement.positions_per_step is 1024, measured again 512"),
    "peak": (
        "hardware.peak_flops_per_second",
        156e12,
        "peak_flops_per_second is 156000000000000.0, measured again 312000000000000.0",
    ),
    "device": ("hardware.device_name", "NVIDIA H100 80GB HBM3", "belongs into h100-sxm/, not a100/"),
    "series": ("step_times_s.0", SERIES[:9], "measurement.steps is 24, measured again 7"),
    "history": ("history", [], "history.0.step_time_s is None, measured again 0.9"),
    "ranks": ("step_times_s.1", SERIES, "2 ranks have step times; asked for were 1"),
    "shapes": ("measurement.sequence_length_min", 17, "measurement.sequence_length_min is 17, measured again 256"),
    "warm-up": (
        "settings.measurement.warmup_steps",
        5,
        "doesn't ask for this run, or not again: batch_size=2 measurement.warmup_steps=5",
    ),
    "settings": ("settings.measurement.typo", 1, "measurement.typo=1"),
    "commit": ("provenance.commit", "abc-dirty", "without local changes"),
    "status": ("status", "inconsistent", "figures of a run that is not ok"),
    "differences": ("differences", [{"what": "seed", "asked": "0", "seen": "1"}], "seed: asked 0, seen 1"),
    "schema": ("schema_version", 1, "schema_version 1"),
    "work": ("measurement", {"steps": 8}, "is not a result of mfubench"),
}


@pytest.fixture(scope="module")
def good(compose: Callable[..., Experiment]) -> Callable[..., Result]:
    """A result of the command above, its figures worked out here by the standard library."""

    def made(
        batch_size: int,
        *,
        series: list[float] = SERIES,
        warmup: int = WARMUP,
        because: str = "steps",
        masked: bool = False,
    ) -> Result:
        """`warmup`: what the figures leave out, to be of the rest of the series; `masked`: by a kernel that skips nothing."""
        experiment = compose(*COMMAND.replace("1,2", str(batch_size)).split()[4:])
        flops, window = step_flops(experiment), series[warmup:]
        flops = replace(flops, hardware_flops_causal=flops.hardware_flops) if masked else flops
        mean, interval, steady = statistics.fmean(window), summarize(window), steadiness(window)
        positions = 256 * batch_size
        rates = {
            "tokens_per_second_per_device": positions / mean,
            "model_tflops_per_second_per_device": flops.model_flops / mean / 1e12,
            "hardware_tflops_per_second_per_device": flops.hardware_flops / mean / 1e12,
        } | {
            name.replace("model_flops", "mfu").replace("hardware_flops", "hfu"): count / PEAK / mean
            for name, count in asdict(flops).items()
            if "flops" in name
        }
        ends = [interval.ci95_low, interval.ci95_high]
        measurement = {
            "steps": len(window),
            "warmup_steps": warmup,
            "stopped_because": because,
            "settled": steady.settled,
            "drift": steady.drift,
            "step_time_s": mean,
            "step_time_s_median": statistics.median(window),
            "step_time_s_std": statistics.stdev(window),
            "step_time_s_min": min(window),
            "step_time_s_max": max(window),
            "relative_half_width": interval.ci95_high / mean - 1 if len(window) >= MIN_STEPS else None,
            # All steps do the same work, so that a rate's ends are the work over the time's.
            "ci95": {"step_time_s": ends}
            | {name: [rate * mean / end for end in ends[::-1]] for name, rate in rates.items()}
            if len(window) >= MIN_STEPS
            else {},
            "positions_per_step": positions,
            # What a run adds to the figures, which nothing here can measure again.
            **{"device_seconds": 40.0, "device_seconds_after": 0.6, "mfu_at_clock": 0.3, "of_ceiling": 0.5},
            **{"loss_first": 9.08, "loss_last": 8.91, "joules_per_token": 0.2, "usd_per_million_tokens": 0.1},
        } | rates
        return make_result(
            name=f"run-{batch_size}",
            framework="hf_trainer",
            engine=None,
            status="ok",
            reason=None,
            stopped_by="mfubench",
            group="sweep",
            started_at=f"2026-01-01T00:00:0{batch_size}+00:00",
            settings=asdict(experiment),
            hardware={
                "device": "cuda",
                "device_name": "NVIDIA A100-SXM4-80GB",
                "precision": "bf16",
                "peak_flops_per_second": PEAK,
                "peak_dtype": "bf16",
                "peak_source": "a data sheet",
                "peak_measured": False,
            },
            flops=asdict(flops),
            work=None,
            differences=[],
            measurement=measurement,
            withheld=None,
            step_times_s={"0": series},
            history=[
                {"step": i + 1, "warmup": int(i < warmup), "step_time_s": t}
                | {name: rates[name] * mean / t for name in STEP_RATES}
                for i, t in enumerate(series)
            ],
            conditions=[],
            warnings=[],
            conventions={},
            plan=None,
            outcome=None,
            provenance={"commit": "abc", "folder": "/runs", "framework_environment": {}},
        )

    return made


@pytest.fixture
def folder(good: Callable[..., Result], tmp_path: Path) -> Path:
    """A submission in which nothing is wrong."""
    study = tmp_path / "a100" / "two-batches"
    for batch_size in (1, 2):
        (study / str(batch_size)).mkdir(parents=True)
        write_result(good(batch_size), study / str(batch_size))
    (study / "command.txt").write_text(f"{COMMAND}\n")
    return study


def changed(path: Path, key: str, value: object) -> None:
    content = json.loads(path.read_text())
    *above, last = key.split(".")
    place = content
    for name in above:
        place = place[name]
    place[last] = value
    path.write_text(json.dumps(content))


def test_a_folder_whose_figures_follow_from_its_series_and_settings_passes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submission(folder).problems == ()
    assert main([str(folder)]) == 0 and main([str(folder.parent.parent)]) == 0
    assert "a100/two-batches: 2 result(s), 0 problem(s)" in capsys.readouterr().out


def test_a_result_from_before_a_setting_outside_the_work_was_there_passes(folder: Path) -> None:
    file = folder / "1" / "result.json"
    content = json.loads(file.read_text())
    del content["settings"]["hardware"]["price_per_hour"]
    file.write_text(json.dumps(content))
    assert submission(folder).problems == ()


@pytest.mark.parametrize("name", CHANGES)
def test_a_figure_that_was_changed_by_hand_is_found(folder: Path, name: str) -> None:
    key, value, said = CHANGES[name]
    changed(folder / "2" / "result.json", key, value)
    found = submission(folder).problems
    assert any(said in problem and "2/result.json" in problem for problem in found), found


def test_steps_faster_than_the_chip_are_found_though_every_figure_follows_from_them(
    good: Callable[..., Result], folder: Path
) -> None:
    write_result(good(2, series=[time / 1e3 for time in SERIES]), folder / "2")
    (problem,) = submission(folder).problems
    assert "measured again at most 312 TFLOP/s" in problem


def test_an_attention_kernel_that_was_given_a_mask_skips_nothing(good: Callable[..., Result], folder: Path) -> None:
    write_result(good(2, masked=True), folder / "2")
    assert submission(folder).problems == ()


def test_a_window_that_was_chosen_by_hand_is_found(good: Callable[..., Result], folder: Path) -> None:
    write_result(good(2, warmup=4), folder / "2")
    (problem,) = submission(folder).problems
    assert "measurement.steps is 22, measured again 24; measurement.warmup_steps is 4, measured again 2" in problem


def test_a_run_that_its_user_ended_counts_to_its_end_and_not_before_the_least(
    good: Callable[..., Result], folder: Path
) -> None:
    write_result(good(2, series=SERIES[:8], because="user"), folder / "2")
    assert submission(folder).problems == ()
    write_result(good(2, series=SERIES[:5], because="user"), folder / "2")  # 3 of the least 4
    (problem,) = submission(folder).problems
    assert "it has 5 steps; its settings ask for at least 6" in problem


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("liger.rope", False, "liger.rope=False"),
        ("mode.rank", 4, "mode.rank=4"),
        ("framework.native", {"optim": "sgd"}, "framework.native.optim=sgd"),
    ],
)
def test_a_setting_inside_a_group_that_the_command_does_not_ask_for_is_found(
    folder: Path, key: str, value: object, said: str
) -> None:
    changed(folder / "2" / "result.json", f"settings.{key}", value)
    assert any(
        "the command doesn't ask for this run" in problem and said in problem for problem in submission(folder).problems
    )


@pytest.mark.parametrize("key", ["settings.parallelism", "settings.framework", "settings.batch_size", "step_times_s.0"])
@pytest.mark.parametrize("value", [{}, "word", None])
def test_a_file_edited_to_nonsense_is_a_problem_and_no_crash(folder: Path, key: str, value: object) -> None:
    changed(folder / "2" / "result.json", key, value)
    assert any("2/result.json" in problem for problem in submission(folder).problems)


def test_what_is_wrong_is_said_and_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "1" / "result.json").write_text("{")
    assert main([str(folder)]) == 1
    said = capsys.readouterr().err
    assert "can't be read" in said and "1 run(s) that are not there: batch_size=1" in said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (None, "it must hold the one command"),
        ("rm -rf /", "it must hold the one command"),
        (f"{COMMAND} bach_size=4", "the command is refused: there is no setting 'bach_size'"),
        (f"{COMMAND} --no-such-flag", "the command is refused"),
        (COMMAND.replace("=1,2", "=1"), "the command doesn't ask for this run, or not again: batch_size=2"),
        (COMMAND.replace("=1,2", "=1,2,4"), "1 run(s) that are not there: batch_size=4"),
    ],
)
def test_the_command_must_be_one_that_makes_these_results(folder: Path, command: str | None, said: str) -> None:
    (folder / "command.txt").unlink()
    if command is not None:
        (folder / "command.txt").write_text(command)
    (problem,) = submission(folder).problems
    assert said in problem


def test_running_out_of_memory_is_a_result_and_a_crash_is_none(good: Callable[..., Result], folder: Path) -> None:
    failed = replace(good(2), measurement=None, status="out_of_memory", reason="too much")
    write_result(failed, folder / "2")
    assert submission(folder).problems == ()
    write_result(replace(failed, status="failed", reason="exit status 1"), folder / "2")
    assert any("its status is failed" in problem for problem in submission(folder).problems)


def test_a_run_that_is_handed_in_twice_is_found(good: Callable[..., Result], folder: Path) -> None:
    (folder / "again").mkdir()
    (folder / "again" / "result.json").write_text((folder / "1" / "result.json").read_text())
    assert any("is the same run as" in problem for problem in submission(folder).problems)
    write_result(replace(good(1), started_at="2026-01-02T00:00:00+00:00"), folder / "again")
    (problem,) = submission(folder).problems
    assert "again/result.json: the command doesn't ask for this run, or not again: batch_size=1" in problem


def test_an_empty_folder_has_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "no command.txt" in capsys.readouterr().err


def test_a_folder_that_is_not_there_has_nothing_to_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "gone")]) == 1
    printed = capsys.readouterr()
    assert "gone: no command.txt" in printed.err and printed.out == ""


def test_the_results_of_this_project_are_right() -> None:
    assert main([]) == 0
