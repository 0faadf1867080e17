"""The words beside the progress bar."""

from __future__ import annotations

from mfubench.measure.progress import _description
from mfubench.measure.stopping_rule import Rule


def test_the_bar_says_that_its_figures_are_of_the_last_20_steps_of_the_slowest_rank() -> None:
    slow, quick = [9.0] * 10 + [0.2] * 20, [0.1] * 30
    words = _description([slow, quick], Rule(warmup=10, least=30, most=200, precision=None), ideal_step_s=0.13)
    assert words == "last 20 steps: 200 ms, MFU 65.0%; mean ±0.0%"


def test_the_bar_counts_the_steps_that_there_are_and_says_at_which_precision_it_ends() -> None:
    rule = Rule(warmup=5, least=30, most=200, precision=0.01)
    assert _description([[2.0]], rule, ideal_step_s=1.0) == "last 1 step: 2 s, MFU 50.0%"
    # Two of 9 s and eighteen of 2 s in the mean are the last 20; 18 that are measured have no interval.
    assert _description([[9.0] * 5 + [1.0, 3.0] * 9], rule, ideal_step_s=1.0) == "last 20 steps: 2.7 s, MFU 37.0%"
    # Twenty steps that alternate count as independent: Student's t of 19 degrees of freedom, 2.093, times a standard
    # deviation of 1.026 over the root of 20, over the mean of 2.
    words = _description([[9.0] * 5 + [1.0, 3.0] * 10], rule, ideal_step_s=1.0)
    assert words == "last 20 steps: 2 s, MFU 50.0%; mean ±24.0%, ends at ±1.0%"
