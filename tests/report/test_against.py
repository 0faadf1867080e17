"""New results against old ones: the gate."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mfubench.report.__main__ import main
from mfubench.report.against import change_records, changes, regressions, section
from mfubench.result import Result, write_result

Made = Callable[..., Result]
Repeats = Callable[..., list[Result]]


def written(results: list[Result], folder: Path) -> Path:
    for number, result in enumerate(results):
        (folder / str(number)).mkdir(parents=True)
        write_result(result, folder / str(number))
    return folder


def noisy(rng: random.Random, n: int, mean: float) -> list[float]:
    return [rng.gauss(mean, 0.002 * mean) for _ in range(n)]


def test_a_slow_down_beyond_the_tolerance_is_a_regression_and_one_within_is_not(repeats: Repeats) -> None:
    rng = random.Random(0)
    old = repeats(seconds=noisy(rng, 8, 0.2))
    new = repeats(seconds=noisy(rng, 8, 0.206), group="later")
    (beyond,) = changes(old, new, tolerance=0.02)
    assert (beyond.verdict, beyond.regression) == ("slower", True)
    assert beyond.comparison is not None and beyond.comparison.ratio.basis == "runs"
    assert beyond.comparison.ratio.low <= 1.03 <= beyond.comparison.ratio.high
    (within,) = changes(old, new, tolerance=0.05)
    assert (within.verdict, within.regression) == ("slower, not for sure by more than the tolerance", False)
    (back,) = changes(new, old, tolerance=0.02)
    assert (back.verdict, back.regression) == ("faster", False)


def test_the_same_again_is_no_regression_though_no_interval_is_without_width(repeats: Repeats) -> None:
    rng = random.Random(0)
    bad = sum(
        bool(regressions(changes(repeats(seconds=noisy(rng, 4, 0.2)), repeats(seconds=noisy(rng, 4, 0.2)), 0.0)))
        for _ in range(40)
    )
    assert bad <= 4  # of one side: 2.5 % each; more than 4 of 40 in 0.3 % of such trials


def test_a_single_run_never_fails_the_gate_however_slow(result: Made) -> None:
    found = changes([result(seconds=0.2)], [result(seconds=0.4)], tolerance=0.02)
    assert [(change.verdict, change.regression) for change in found] == [("single runs", False)]
    assert "repeat=range(3)" in " ".join(section(found, 0.02).paragraphs)


def test_what_was_ok_and_is_not_any_more_is_a_regression(result: Made, repeats: Repeats) -> None:
    gone = {"status": "out_of_memory", "reason": "CUDA out of memory", "measurement": None}
    (change,) = changes([result()], [result(**gone)], 0.02)
    assert (change.verdict, change.regression) == ("no longer ok: out_of_memory", True)
    (back,) = changes([result(**gone)], [result()], 0.02)
    assert (back.verdict, back.regression) == ("ok now", False)
    (still,) = changes([result(**gone)], [result(**gone)], 0.02)
    assert (still.verdict, still.regression) == ("not ok, then and now: out_of_memory", False)
    (one_of_two,) = changes(repeats(seconds=[0.2, 0.2]), [result(), result(**gone, repeat=1)], 0.02)
    assert (one_of_two.verdict, one_of_two.regression) == ("no longer ok: 1 of 2 ok", True)


def test_what_can_no_longer_be_started_is_no_longer_ok_though_its_precision_was_never_resolved(result: Made) -> None:
    gone = {"status": "not_installed", "reason": "not there", "measurement": None, "hardware": None}
    (change,) = changes([result()], [result(**gone)], 0.02)
    assert (change.verdict, change.regression) == ("no longer ok: not_installed", True)


def test_what_is_on_one_side_only_is_said(result: Made) -> None:
    found = changes([result("batch_size=1"), result()], [result(), result("batch_size=4")], 0.02)
    assert [(change.name, change.verdict) for change in found] == [
        ("hf_trainer full · batch 2", "single runs"),
        ("hf_trainer full · batch 4", "new"),
        ("hf_trainer full · batch 1", "missing"),
    ]
    assert not regressions(found) and [change.verdict for change in regressions(found, strict=True)] == ["missing"]
    assert section(found, 0.02).paragraphs[0] == (
        "3 settings: 0 slower by more than 2.0% (the whole 95 % interval), 0 no longer ok, 1 missing, 1 new."
    )


def test_what_was_ok_and_is_missing_fails_the_strict_gate_only(
    repeats: Repeats, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [*repeats(seconds=[0.2, 0.2]), *repeats("batch_size=4", seconds=[0.3, 0.3])]
    old, new = written(both, tmp_path / "old"), written(both[:2], tmp_path / "new")
    assert main([str(new), "--against", str(old)]) == 0
    assert "1 missing, 0 new" in capsys.readouterr().out
    assert main([str(new), "--against", str(old), "--strict"]) == 3
    assert main([str(old), "--against", str(new), "--strict"]) == 0
    gone = [dataclasses.replace(run, status="failed", reason="it broke", measurement=None) for run in both[2:]]
    assert not regressions(changes([*both[:2], *gone], both[:2], 0.02), strict=True)


def test_a_quick_run_is_not_held_against_a_default_one(result: Made) -> None:
    found = changes([result()], [result("measurement=quick")], 0.02)
    assert [(change.verdict, change.comparison) for change in found] == [("new", None), ("missing", None)]


def test_of_several_sweeps_of_a_setting_the_newest_counts(repeats: Repeats, result: Made) -> None:
    times = ("2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00")
    nights = [repeats(seconds=[s, s], group=at, started_at=at) for s, at in zip((0.1, 0.2), times, strict=True)]
    (change,) = changes([*nights[1], *nights[0]], repeats(seconds=[0.2, 0.2]), 0.02)
    assert change.comparison is not None and change.comparison.ratio.ratio == pytest.approx(1)


def test_another_device_version_or_length_is_no_other_setting_and_is_said(result: Made) -> None:
    hardware = {"device_name": "Another"}
    later = {"framework_environment": {"torch": "2.14.0"}, "mfubench": "0.2.0", "folder": "/runs/b"}
    found = changes([result()], [result("measurement.steps=8", hardware=hardware, provenance=later)], 0.02)
    (text,) = section(found, 0.02).paragraphs[2:]
    assert text.startswith("old and new differ: ")
    for part in ("device A chip and Another", "versions torch 2.13.0 and torch 2.14.0", "measurement.steps 200 and 8"):
        assert part in text


def test_with_several_devices_each_is_compared_with_itself(result: Made) -> None:
    def on(device: str, seconds: float) -> Result:
        return result(seconds=seconds, hardware={"device_name": device})

    found = changes([on("A", 0.1), on("B", 0.4)], [on("B", 0.4), on("A", 0.1)], 0.02)
    assert [change.comparison and change.comparison.ratio.ratio for change in found] == [1.0, 1.0]


def test_a_program_reads_each_change_with_its_interval(repeats: Repeats) -> None:
    old, new = repeats(seconds=[0.2, 0.2]), repeats(seconds=[0.3, 0.3])
    (record,) = change_records(changes(old, new, 0.02))
    assert record["step_time_ratio"] == pytest.approx(1.5) == record["step_time_ratio_ci95_low"]
    assert (record["old_runs"], record["new_step_time_s"]) == (2, 0.3)
    assert (record["verdict"], record["regression"]) == ("slower", True)


def test_the_gate_exits_with_3_for_a_regression_and_0_for_none(
    repeats: Repeats, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = written(repeats(seconds=[0.2, 0.2002, 0.1999]), tmp_path / "old")
    new = written(repeats(seconds=[0.21, 0.2102, 0.2099]), tmp_path / "new")
    assert main([str(new), "--against", str(old)]) == 3
    assert "slower ✗" in capsys.readouterr().out
    assert main([str(new), "--against", str(old), "--tolerance", "0.1"]) == 0
    assert main([str(old), "--against", str(new), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n[\n")[-1].join(["[\n", ""]))[0]["verdict"] == "faster"
    assert main([str(new), "--against", str(tmp_path / "nowhere")]) == 2
    other = written(repeats("batch_size=8", seconds=[0.2]), tmp_path / "other")
    assert main([str(new), "--against", str(other)]) == 2
    assert "no setting is in both" in capsys.readouterr().err
