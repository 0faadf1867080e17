"""Summaries against numbers worked out by hand."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from mfubench.measure.intervals import ratio_interval, student, summarize
from mfubench.measure.ratio import single, unpaired


def test_five_values_are_summed_up_as_by_hand() -> None:
    """Mean 20/5 = 4; squared deviations 4 + 1 + 0 + 0 + 9 = 14, so std = sqrt(14/4); t(0.975, 4) = 2.776445 from a
    printed table; half width 2.776445 x sqrt(3.5) / sqrt(5) = 2.322940.
    Neighbours lie on opposite sides of the mean, so the values are worth five."""
    found = summarize([7.0, 2.0, 4.0, 3.0, 4.0])
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
    """2000 series: two standard errors of the coverage are 1 %. Ten values can't rule out that they are autocorrelated, so
    a few more are covered."""
    rng = random.Random(0)
    series = ([rng.gauss(1.0, 0.02) for _ in range(10)] for _ in range(2000))
    covered = sum(s.ci95_low <= 1.0 <= s.ci95_high for s in map(summarize, series))
    assert 0.94 <= covered / 2000 <= 0.985


def test_the_interval_of_a_rate_of_constant_work_is_that_of_the_time_turned_over() -> None:
    """Of the five values above: 12 over the ends of 4 ± 2.322940."""
    low, high = ratio_interval([12.0] * 5, [7.0, 2.0, 4.0, 3.0, 4.0])
    assert (low, high) == (pytest.approx(12 / 6.322940, abs=1e-5), pytest.approx(12 / 1.677060, abs=1e-5))


def test_the_interval_of_a_ratio_is_as_by_hand() -> None:
    """Amounts 1, 2, 3 over times 2, 3, 5: means 2 and 10/3, variances 1 and 7/3, covariance 1.5; t(0.975, 2) = 4.302653,
    whose square over 3 is 6.170940. The roots of (100/9 - 6.170940 x 7/3) R² - 2 (20/3 - 6.170940 x 1.5) R +
    (4 - 6.170940): a = -3.287749, b = -2.589743, c = -2.170940. a < 0: no upper end, and 0 is not excluded.
    Ten times each instead: n = 30, t(0.975, 29) = 2.045230, its square over 30 is 0.139432; variances 20/29, 140/87,
    covariance 30/29; a = 10.886738, b = 6.522426, c = 3.903840: (b ± sqrt(b² - ac)) / a.
    """
    assert ratio_interval([1.0, 2.0, 3.0], [2.0, 3.0, 5.0]) == (0.0, None)
    a, b, c = 10.886738, 6.522426, 3.903840
    root = (b * b - a * c) ** 0.5
    found = ratio_interval([1.0, 2.0, 3.0] * 10, [2.0, 3.0, 5.0] * 10)
    assert found == (pytest.approx((b - root) / a, abs=1e-5), pytest.approx((b + root) / a, abs=1e-5))


def test_proportional_work_and_time_have_a_rate_without_doubt() -> None:
    assert ratio_interval([2.0, 6.0, 4.0] * 4, [1.0, 3.0, 2.0] * 4) == pytest.approx((2.0, 2.0))
    assert ratio_interval([5.0] * 4, [0.1] * 4) == pytest.approx((50.0, 50.0))


def test_a_rate_whose_time_may_be_zero_has_no_upper_end() -> None:
    low, high = ratio_interval([12.0] * 2, [0.1, 5.0])
    assert (low, high) == (pytest.approx(12 / summarize([0.1, 5.0]).ci95_high), None)


@pytest.mark.parametrize("noise", ["of the time", "of the work"])
def test_the_interval_of_a_ratio_covers_the_true_rate_in_95_of_100_series(noise: str) -> None:
    """2000 series of 20 steps of uneven work at a true rate of 3; two standard errors of the coverage are 1 %."""
    rng = random.Random(0)
    covered = 0
    for _ in range(2000):
        work = [rng.uniform(1.0, 4.0) for _ in range(20)]
        times = [amount / 3 for amount in work]
        if noise == "of the time":
            times = [time + rng.gauss(0.0, 0.05) for time in times]
        else:
            work = [amount + rng.gauss(0.0, 0.15) for amount in work]
        low, high = ratio_interval(work, times)
        covered += high is not None and low <= 3.0 <= high
    assert 0.94 <= covered / 2000 <= 0.985


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=f"{len(values)} value"):
        summarize(values)


def test_two_groups_of_runs_have_the_interval_of_welchs_test_of_their_logarithms() -> None:
    """Against scipy.stats, which shares no code with it but the t distribution."""
    from scipy.stats import ttest_ind

    one, other = [1.0, 1.02, 0.98, 1.01], [1.05, 1.12, 1.1]
    found = unpaired(one, other)
    test = ttest_ind([math.log(value) for value in other], [math.log(value) for value in one], equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))
    assert found.ratio == pytest.approx((1.05 * 1.12 * 1.1) ** (1 / 3) / (1.02 * 0.98 * 1.01) ** (1 / 4))
    assert found.resolved and (found.basis, found.pairs, found.more_repeats) == ("runs", 0, 0)


def test_the_repeats_that_would_resolve_a_difference_do_if_all_stays_as_it_is() -> None:
    one, other = [1.00, 1.04, 0.96], [1.03, 1.07, 0.99]
    found = unpaired(one, other)
    assert not found.resolved and found.more_repeats is not None
    std = statistics.stdev(map(math.log, one))
    total = 3 + found.more_repeats

    def half(n: int) -> float:
        return student(2 * n - 1, 0.95) * std * (2 / n) ** 0.5  # two groups of one spread: 2 n - 2 degrees of freedom

    assert half(total) < math.log(found.ratio) * 1.02 and half(total - 1) > math.log(found.ratio) * 0.98


def test_single_runs_are_as_sure_as_their_steps_and_never_resolved() -> None:
    """Half widths of 5 % and 3 %: together sqrt(0.0025 + 0.0009) = 0.0583095."""
    found = single((0.2, 0.01), (0.24, 0.0072))
    assert found.ratio == pytest.approx(1.2)
    assert math.log(found.high / found.ratio) == pytest.approx(0.0583095, abs=1e-6)
    assert math.log(found.ratio / found.low) == pytest.approx(0.0583095, abs=1e-6)
    assert (found.resolved, found.basis, found.more_repeats) == (False, "single", None)


def test_runs_without_any_spread_differ_or_are_the_same_for_sure() -> None:
    assert unpaired([0.2, 0.2], [0.21, 0.21]).resolved
    assert not unpaired([0.2, 0.2], [0.2, 0.2]).resolved
    with pytest.raises(ValueError, match="1 run"):
        unpaired([0.2], [0.2, 0.2])
