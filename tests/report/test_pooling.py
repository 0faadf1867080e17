"""Repeats of a setting as one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mfubench.measure.figures import RunWarning
from mfubench.report.overview import overview
from mfubench.report.pooling import pairs, pool
from mfubench.result import Result

Made = Callable[..., Result]
Repeats = Callable[..., list[Result]]
Text = Callable[..., str]


def test_runs_that_differ_in_repeat_alone_are_one_setting(repeats: Repeats) -> None:
    runs = repeats("batch_size=1", seconds=[0.2, 0.21]) + repeats("batch_size=4", seconds=[0.8, 0.81])
    interleaved = [runs[0], runs[2], runs[1], runs[3]]
    assert [(each.settings["batch"], len(each.ok)) for each in pool(interleaved)] == [("1", 2), ("4", 2)]


def test_three_repeats_have_the_mean_and_the_interval_worked_out_by_hand(repeats: Repeats) -> None:
    """Mean 0.2; deviations -0.01, 0, 0.01: std 0.01; t(0.975, 2) = 4.302653: half width 0.04302653 / sqrt(3)."""
    (pooled,) = pool(repeats(seconds=[0.19, 0.2, 0.21]))
    found = pooled.figure("step_time_s")
    assert found is not None and (found.mean, found.runs) == (pytest.approx(0.2), 3)
    assert found.half_width == pytest.approx(0.0248414, abs=1e-6)
    utilisation = pooled.figure("mfu")
    assert utilisation is not None and utilisation.mean == pytest.approx(0.4 * (0.2 / 0.19 + 1 + 0.2 / 0.21) / 3)


def test_one_run_has_the_interval_of_its_own_steps(result: Made) -> None:
    (pooled,) = pool([result(seconds=0.5)])
    found = pooled.figure("step_time_s")
    assert found is not None and (found.low, found.high, found.runs) == (0.495, 0.505, 1)
    memory = pooled.figure("peak_memory_bytes")
    assert memory is not None and memory.half_width is None
    assert pooled.figure("joules_per_token") is None


def test_the_table_says_how_many_runs_a_row_is_over_and_what_its_interval_is_of(
    repeats: Repeats, text_of: Text
) -> None:
    runs = repeats("batch_size=1", seconds=[0.19, 0.2, 0.21]) + repeats("batch_size=4", seconds=[0.8])
    lines = text_of(runs).splitlines()
    header = next(line for line in lines if line.startswith("setting"))
    assert header.split()[:4] == ["setting", "status", "n", "time"]
    row = next(line for line in lines if line.startswith("hf_trainer full · batch 1 "))
    assert row.split()[5:9] == ["ok", "3", "200", "ms"]
    assert "±12.4%" in text_of(runs) and "over the runs where n is more than 1" in " ".join(text_of(runs).split())


def test_a_repeat_that_failed_is_no_part_of_the_figures_and_is_named(repeats: Repeats, text_of: Text) -> None:
    runs = repeats(seconds=[0.2, 0.2, 0.2])
    runs[1] = replace(runs[1], status="out_of_memory", reason="CUDA out of memory", measurement=None)
    text = text_of(runs)
    assert "2 of 3 ok" in text and "hf_trainer llama-tiny full (repeat 1): out_of_memory: CUDA out of memory" in text
    (pooled,) = pool(runs)
    found = pooled.figure("step_time_s")
    assert found is not None and found.runs == 2


def test_the_same_warning_of_several_repeats_is_one_line(repeats: Repeats) -> None:
    said = [
        replace(run, warnings=(RunWarning("imprecise", f"known to ±{i} %"),))
        for i, run in enumerate(repeats(seconds=[0.2, 0.2, 0.2]))
    ]
    (remark,) = overview(said).remarks
    assert (remark.failure, remark.text) == (False, "known to ±0 % (the first of 3 runs that say so)")


@pytest.mark.parametrize(
    ("field", "old", "new", "heading"),
    [
        ("hardware", {"device_name": "A chip"}, {"device_name": "Another"}, "device"),
        ("hardware", {"peak_flops_per_second": 1e12}, {"peak_flops_per_second": 2e12}, "peak"),
        (
            "provenance",
            {"framework_environment": {"torch": "2.12", "typer": "1"}},
            {"framework_environment": {"torch": "2.13", "typer": "2"}},
            "versions",
        ),
    ],
)
def test_runs_on_other_devices_or_of_other_versions_are_no_repeats(
    result: Made, field: str, old: dict[str, object], new: dict[str, object], heading: str
) -> None:
    runs = [result(**{field: values}) for values in (old, new)]
    assert len(pool(runs)) == 2 and all(f" · {heading} " in row.name for row in overview(runs).rows)
    assert not any(heading in row.name for row in overview(runs[:1] * 2).rows)


def test_a_peak_that_was_measured_anew_for_each_run_tells_no_rows_apart(result: Made) -> None:
    peaks = [{"peak_measured": True, "peak_flops_per_second": peak} for peak in (1e12, 2e12)]
    assert len(pool([result(repeat=i, hardware=peak) for i, peak in enumerate(peaks)])) == 1


def test_an_update_of_a_package_that_changes_no_step_tells_no_rows_apart(result: Made) -> None:
    environments = [{"framework_environment": {"torch": "2.13", "typer": each}} for each in ("1", "2")]
    assert len(pool([result(repeat=i, provenance=each) for i, each in enumerate(environments)])) == 1


def test_runs_that_nobody_asked_for_as_repeats_are_no_repeats(result: Made, repeats: Repeats) -> None:
    twice = [result(started_at=f"2026-01-01T0{hour}:00:00+00:00") for hour in (1, 2)]
    assert [len(each.results) for each in pool(twice)] == [1, 1]
    assert [row.name for row in overview(twice).rows] == [f"hf_trainer full · 0{hour}:00:00" for hour in (1, 2)]
    assert [len(each.results) for each in pool([*twice, result(repeat=1)])] == [2, 1]
    sweeps = [*repeats(seconds=[0.2, 0.2]), *repeats(seconds=[0.2, 0.2], group="later")]
    assert [len(each.results) for each in pool(sweeps)] == [2, 2]
    assert [len(each.results) for each in pool([result(group="one"), result(group="one")])] == [2]
    lengths = [result("measurement=quick", group="one"), result(group="one", repeat=1)]
    assert [len(each.results) for each in pool(lengths)] == [1, 1]


def test_the_same_repeat_of_the_same_sweep_is_a_pair(repeats: Repeats) -> None:
    one, other = pool(repeats("seed=1", seconds=[0.1, 0.2, 0.3]) + repeats("seed=2", seconds=[0.4, 0.5]))
    assert [(a.settings["repeat"], b.settings["repeat"]) for a, b in pairs(one, other)] == [(0, 0), (1, 1)]
    alone, later = pool(repeats("seed=1", seconds=[0.1], group=None) + repeats("seed=2", seconds=[0.4], group="then"))
    assert pairs(alone, later) == [] == pairs(one, later) == pairs(alone, alone)[1:]
