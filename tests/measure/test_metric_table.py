"""The table of metrics is the Measurement's, row by row."""

from __future__ import annotations

from types import NoneType
from typing import get_args, get_type_hints

import pytest

from mfubench.flops.counts import AMOUNTS
from mfubench.measure.figures import Figures
from mfubench.measure.metric_table import COLUMNS, METRICS, PER_STEP, WORDS, StepWork, percent, rates

NO_FIGURES = {"rank"}  # a number that measures nothing


def test_every_figure_of_a_measurement_has_a_row_and_every_row_is_one() -> None:
    kinds = {name: set(get_args(kind)) or {kind} for name, kind in get_type_hints(Figures).items()}
    figures = {name for name, kind in kinds.items() if kind - {NoneType} <= {int, float}} - NO_FIGURES
    names = [metric.name for metric in METRICS]
    assert sorted(names) == sorted(figures)
    rates = [metric.name for metric in METRICS if metric.rate]
    assert [name for name in rates if NoneType not in kinds[name]] == ["tokens_per_second_per_device"]


def test_a_column_has_a_place_of_its_own_a_heading_in_two_lines_and_a_unit_with_a_format() -> None:
    columns = [metric for metric in METRICS if metric.heading]
    assert sorted(metric.column for metric in columns) == list(range(1, len(columns) + 1)) and len(COLUMNS) == len(
        columns
    )
    for metric in columns:
        assert metric.two_lines.count("\n") == 1 and WORDS[metric.unit](0.5)
    assert sorted(metric.per_step for metric in METRICS if metric.per_step) == list(range(1, len(PER_STEP) + 1))


def test_percent_has_a_real_minus_and_what_rounds_to_nothing_has_no_sign_of_its_own() -> None:
    assert [percent(each) for each in (0.6543, -0.018, -0.0001)] == ["65.4%", "−1.8%", "0.0%"]
    assert [percent(each, 2, "+") for each in (0.1, -0.0123, -0.00001)] == ["+10.00%", "−1.23%", "+0.00%"]


def test_the_rates_of_a_step_are_its_work_over_one_second() -> None:
    """512 positions and 40, 36, 50 and 45 TFLOP on a device of 100 TFLOP/s."""
    flops = dict(zip(AMOUNTS, (40e12, 36e12, 50e12, 45e12), strict=True))
    assert rates(StepWork(512, **flops, peak_flops_per_second=100e12)) == pytest.approx(
        {
            "tokens_per_second_per_device": 512,
            "model_tflops_per_second_per_device": 40,
            "hardware_tflops_per_second_per_device": 50,
            "mfu": 0.40,
            "mfu_causal": 0.36,
            "hfu": 0.50,
            "hfu_causal": 0.45,
        }
    )
