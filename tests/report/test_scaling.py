"""Scaling efficiency: its figures worked out by hand, which settings are put together, and its table and picture."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from made_results import CPU_MS, CPU_WORK, explanation

from mfubench.report.html import page
from mfubench.report.pooling import pool
from mfubench.report.scaling import Scaling, scaling_section, scalings
from mfubench.report.to_markdown import markdown_text
from mfubench.result import Result

Made = Callable[..., Result]
Repeats = Callable[..., list[Result]]


def on(devices: int, *more: str) -> tuple[str, ...]:
    """The overrides of so many devices."""
    return ("parallelism=ddp", f"parallelism.num_devices={devices}", *more)


def of(runs: list[Result]) -> Scaling:
    """The only scaling of these runs."""
    (found,) = scalings(pool(runs))
    return found


def about(runs: list[Result]) -> str:
    """The sentences above the table."""
    return scaling_section(scalings(pool(runs))).paragraphs[0]


def efficiencies(found: Scaling) -> list[float | None]:
    """Those of its points, to six digits."""
    return [point.efficiency and round(point.efficiency.mean, 6) for point in found.points]


def test_efficiency_is_the_ratio_of_step_times_with_the_interval_of_its_pairs(repeats: Repeats) -> None:
    runs = repeats(*on(1), seconds=[0.2, 0.2, 0.2]) + repeats(*on(2), seconds=[0.25, 0.26, 0.24])
    found = of(runs)
    assert efficiencies(found) == [1.0, round(0.2 / (0.25 * 0.26 * 0.24) ** (1 / 3), 6)]
    logs = [math.log(0.2 / second) for second in (0.25, 0.26, 0.24)]
    mean = sum(logs) / 3
    half = 4.302653 * (sum((each - mean) ** 2 for each in logs) / 2 / 3) ** 0.5  # Student's t, 2 degrees, 97.5 %
    efficiency = found.points[1].efficiency
    assert efficiency and (efficiency.low, efficiency.high) == pytest.approx(
        (math.exp(mean - half), math.exp(mean + half)), rel=1e-6
    )
    assert "single runs" not in about(runs)


def test_single_runs_have_the_interval_of_their_steps_and_say_so(result: Made) -> None:
    runs = [result(*on(devices), seconds=seconds) for devices, seconds in ((2, 0.25), (4, 0.3), (1, 0.2))]
    found = of(runs)
    assert [point.size for point in found.points] == [(1, 1), (2, 1), (4, 1)]
    assert efficiencies(found) == [1.0, 0.8, 0.666667]
    assert [point.cells[3] for point in found.points] == ["100.0%", "80.0 ±1.1%", "66.7 ±0.9%"]
    assert "of the fewest devices, with its 95 % interval, of single runs" in about(runs)


def test_the_fewest_devices_that_ran_are_the_reference_and_nodes_are_told(result: Made) -> None:
    """Packed sequences left 5 % more positions a step on two nodes."""
    failed: dict[str, Any] = {"status": "out_of_memory", "measurement": None}
    more = {"positions_per_step": 538, "step_time_s": 0.25}
    runs = [
        result(*on(1), **failed),
        result(*on(2), seconds=0.2),
        result(*on(4, "parallelism.num_nodes=2", "cluster=slurm"), measurement=more),
    ]
    found = of(runs)
    assert efficiencies(found) == [None, 1.0, round(538 / 512 * 0.2 / 0.25, 6)]
    assert [point.cells[:3] for point in found.points] == [
        ("1", "1", "out_of_memory"),
        ("2", "1", "2,560"),
        ("4", "2", "2,560"),
    ]


def test_only_settings_that_are_otherwise_the_same_are_one_line(result: Made) -> None:
    runs = [result(*on(devices, other), seconds=0.2) for other in ("seed=0", "batch_size=8") for devices in (1, 2)] + [
        result("parallelism=zero2", "parallelism.num_devices=2", seconds=0.2)
    ]
    assert [(each.name, len(each.points)) for each in scalings(pool(runs))] == [
        ("hf_trainer full · batch 2", 2),
        ("hf_trainer full · batch 8", 2),
    ]
    table = scaling_section(scalings(pool(runs)))
    assert table.headers[0] == "setting" and [row[0] for row in table.rows][1:3] == [
        "hf_trainer full · batch 2",
        "hf_trainer full · batch 8",
    ]
    assert not scalings(pool([result(*on(2), seconds=0.2), result(*on(2, "mode=lora"), seconds=0.2)]))
    assert not scalings(pool([result(*on(1), seconds=0.2), result(*on(2), status="failed", measurement=None)]))


def test_of_two_runs_on_as_many_devices_the_newest_counts(result: Made) -> None:
    runs = [
        result(*on(devices), seconds=seconds, group=group, started_at=f"2026-01-01T0{hour}:00:00+00:00")
        for hour, (devices, seconds, group) in enumerate([(1, 0.2, "b"), (2, 0.25, "b"), (2, 0.4, "a")])
    ]
    assert efficiencies(of(runs)) == [1.0, 0.5]
    assert efficiencies(of(runs[:2])) == [1.0, 0.8]


def test_a_report_has_the_table_with_communication_that_is_not_hidden_and_a_picture(
    result: Made, text_of: Callable[..., str]
) -> None:
    """Of a profiled step of 250 ms, 25 ms are communication: of the measured step of 200 ms, 20 ms."""
    told = explanation(CPU_MS | {"communication": 25.0, "idle": 0.0, "other": 0.0}, 0.2, "cpu", CPU_WORK)
    runs = [
        result(*on(1), seconds=0.2),
        result(*on(2), seconds=0.2, explanation=told),
        result(*on(4, "parallelism.num_nodes=2", "cluster=slurm"), status="failed", measurement=None),
    ]
    row = ["2", "1", "2,560", "100.0 ±1.4%", "20 ms (10.0%)"]
    in_terminal, in_markdown, in_page = text_of(runs), markdown_text(runs), page(runs)
    assert "Scaling of hf_trainer llama-tiny full" in in_terminal
    assert " ".join(row) in " ".join(in_terminal.split())
    assert "| 2 | 1 | 2,560 | 100.0 ±1.4% | 20 ms (10.0%) |" in in_markdown
    assert "".join(f"<td>{cell}</td>\n" for cell in row) in in_page
    picture = in_page.partition('aria-label="Scaling efficiency"')[2].partition("</svg>")[0]
    words = re.findall(r">([^<]*)</text>", picture)
    assert {"1", "2", "100%", "did not run to its end: failed"} <= set(words) and "2 nodes" in " ".join(words)
    assert "Scaling efficiency" not in page(runs[:1])
