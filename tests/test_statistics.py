"""Summaries against numbers worked out by hand."""

from __future__ import annotations

import random

import pytest

from mfubench.statistics import steady, summarize


def test_five_values_are_summed_up_as_by_hand() -> None:
    """Mean 20/5 = 4; squared deviations 4 + 1 + 0 + 0 + 9 = 14, so std = sqrt(14/4); t(0.975, 4) = 2.776445 from a
    printed table; half width 2.776445 x sqrt(3.5) / sqrt(5) = 2.322940."""
    found = summarize([2.0, 3.0, 7.0, 4.0, 4.0])
    assert (found.n, found.mean, found.median, found.minimum, found.maximum) == (5, 4.0, 4.0, 2.0, 7.0)
    assert found.std == pytest.approx(3.5**0.5)
    assert found.ci95_low == pytest.approx(4 - 2.322940, abs=1e-5)
    assert found.ci95_high == pytest.approx(4 + 2.322940, abs=1e-5)


def test_two_values_have_the_wide_interval_of_one_degree_of_freedom() -> None:
    """std = sqrt(2) x 0.5, and t(0.975, 1) = 12.7062: half width 12.7062 x 0.5 = 6.3531."""
    found = summarize([1.0, 2.0])
    assert found.median == 1.5
    assert (found.ci95_low, found.ci95_high) == pytest.approx((1.5 - 6.3531, 1.5 + 6.3531), abs=1e-4)


def test_equal_values_have_no_spread_and_an_interval_of_no_width() -> None:
    found = summarize([0.25] * 8)
    assert (found.std, found.ci95_low, found.ci95_high) == (0.0, 0.25, 0.25)


def test_the_interval_covers_the_true_mean_of_independent_values_in_95_of_100_series() -> None:
    """2000 series: two standard errors of the coverage are 1 %."""
    rng = random.Random(0)
    series = ([rng.gauss(1.0, 0.02) for _ in range(10)] for _ in range(2000))
    covered = sum(s.ci95_low <= 1.0 <= s.ci95_high for s in map(summarize, series))
    assert covered / 2000 == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=f"{len(values)} value"):
        summarize(values)


def test_warm_up_steps_are_dropped_from_the_front() -> None:
    assert steady([9.0, 5.0, 1.0, 1.1], 2) == [1.0, 1.1]
    assert steady([9.0, 5.0], 0) == [9.0, 5.0]
    assert list(steady([9.0, 5.0], 2)) == list(steady([9.0], 2)) == []
