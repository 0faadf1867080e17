"""Steady state, stopping and comparing, on simulated series whose truth is known; the seeds are fixed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mfubench.measure.intervals import effective_size, half_width
from mfubench.measure.ratio import paired
from mfubench.measure.steady_state import steadiness
from mfubench.measure.stopping_rule import Rule, check_sizes, enough_after, sure_after

Series = Callable[[np.random.Generator, int], np.ndarray]
WARMUP = 5
SERIES = 200


def independent(rng: np.random.Generator, n: int, noise: float = 0.02) -> np.ndarray:
    return 1 + noise * rng.standard_normal(n)


def autocorrelated(rng: np.random.Generator, n: int, noise: float = 0.02) -> np.ndarray:
    """Each step is half like the one before it; the spread is `noise`."""
    fresh, series = rng.standard_normal(n), np.empty(n)
    series[0] = fresh[0]
    for i in range(1, n):
        series[i] = 0.5 * series[i - 1] + 0.75**0.5 * fresh[i]
    return 1 + noise * series


def with_slow_steps(rng: np.random.Generator, n: int) -> np.ndarray:
    """One in twenty takes half as long again; the mean is 1."""
    return (independent(rng, n) + 0.5 * (rng.random(n) < 0.05)) / 1.025


def with_a_slow_tenth_step(rng: np.random.Generator, n: int) -> np.ndarray:
    """As of a log line or a garbage collection; the mean is 1."""
    return independent(rng, n) + 0.2 * ((np.arange(n) + rng.integers(10)) % 10 == 0) - 0.02


def warming_up(rng: np.random.Generator, n: int) -> np.ndarray:
    """Up to twelve slow steps, each less slow than the one before."""
    series, slow = independent(rng, n, 0.01), rng.integers(1, 12)
    series[:slow] += 3 * np.exp(-np.arange(slow) / 3) + 0.2
    return series


@pytest.mark.parametrize(
    ("series", "precision", "most"),
    [
        (independent, 0.01, 200),
        (autocorrelated, 0.01, 600),
        (with_slow_steps, 0.02, 600),
        (with_a_slow_tenth_step, 0.02, 600),
        (warming_up, 0.005, 600),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_a_run_that_stops_when_it_is_sure_covers_the_truth_in_93_of_100_cases(
    series: Series, precision: float, most: int
) -> None:
    """At precisions that most series reach, so that it is the rule that ends them. Two standard errors of the coverage of
    200 series are 3 %."""
    rng, rule, covered, stopped = np.random.default_rng(1), Rule(WARMUP, 30, most, precision), 0, 0
    for _ in range(SERIES):
        times = series(rng, WARMUP + most).tolist()
        end = sure_after([times], rule)
        stopped += end is not None
        found = steadiness(times[:end], WARMUP)
        steady = times[found.start : end]
        covered += abs(sum(steady) / len(steady) - 1) <= half_width(steady)
    assert stopped / SERIES > 0.7
    assert covered / SERIES >= 0.93


@pytest.mark.parametrize("noise", [0.01, 0.02])
@pytest.mark.parametrize("series", [independent, autocorrelated], ids=lambda s: s.__name__)
def test_a_series_that_drifts_by_3_percent_in_100_steps_is_not_steady_in_95_of_100_cases(
    series: Callable[..., np.ndarray], noise: float
) -> None:
    rng, rule, told = np.random.default_rng(2), Rule(WARMUP, 30, 300, 0.005), 0
    for _ in range(SERIES):
        times = (series(rng, 305, noise) * (1 + 0.03 * np.arange(305) / 100)).tolist()
        told += not steadiness(times[: sure_after([times], rule) or 305], WARMUP).settled
    assert told / SERIES >= 0.95


def test_a_steady_series_is_hardly_ever_called_drifting() -> None:
    rng = np.random.default_rng(3)
    told = sum(not steadiness(autocorrelated(rng, 100).tolist()).settled for _ in range(SERIES))
    assert told / SERIES <= 0.05


def test_steady_steps_begin_after_the_slow_ones() -> None:
    """Seven slow steps, then steps of 1 s that differ by 1 %."""
    rng = np.random.default_rng(4)
    times = [9.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0, *independent(rng, 60, 0.01)]
    found = steadiness(times)
    assert (found.start, found.settled) == (7, True)
    assert found.because == "warm-up ended before step 8 (the first within the range of the second half)"


def test_a_slow_step_later_on_is_no_end_of_a_warm_up() -> None:
    rng = np.random.default_rng(5)
    times = independent(rng, 80, 0.01)
    times[[20, 21, 33]] = 2.0
    assert steadiness(times.tolist()).start == 0


def test_a_machine_that_throttles_in_the_middle_has_not_settled() -> None:
    rng = np.random.default_rng(6)
    times = np.concatenate([independent(rng, 50, 0.01), 1.1 * independent(rng, 50, 0.01)])
    assert not steadiness(times.tolist()).settled


def test_the_time_is_up_on_the_rank_that_needs_it_first_but_never_before_the_least() -> None:
    rule = Rule(warmup=2, least=3, most=100, precision=None, seconds=10.0)
    slow, quick = [9.0, 9.0] + [4.0] * 50, [9.0, 9.0] + [1.0] * 50
    assert enough_after([quick], rule) == (12, "time")
    assert enough_after([quick, slow], rule) == (5, "time")  # 12 s by then
    assert enough_after([quick[:11]], rule) is None
    assert enough_after([[8.0] * 50], rule) == (5, "time")  # not after two of them


def test_all_steps_are_enough_and_one_rank_that_lags_is_not() -> None:
    rule = Rule(warmup=2, least=3, most=10, precision=None)
    assert enough_after([[1.0] * 30, [1.0] * 12], rule) == (12, "steps")
    assert enough_after([[1.0] * 30, [1.0] * 11], rule) is None
    assert enough_after([], rule) is None


def test_a_few_steps_are_too_few_to_tell() -> None:
    found = steadiness([1.0] * 12, warmup=5)
    assert (found.start, found.settled, found.because) == (5, None, "7 steps are too few to tell warm-up from noise")


def test_equal_steps_are_steady() -> None:
    assert steadiness([0.5] * 20).settled


def test_a_simulated_autocorrelation_is_found() -> None:
    """Of half: n (1 - 0.5) / (1 + 0.5), a third of the values."""
    rng = np.random.default_rng(7)
    assert effective_size(autocorrelated(rng, 5000).tolist()) == pytest.approx(5000 / 3, rel=0.1)
    assert effective_size([1.0, 2.0] * 50) == 100  # a negative one is taken for none


def test_the_rule_looks_at_sizes_that_grow_by_half() -> None:
    assert list(check_sizes(Rule(5, 30, 300, 0.01))) == [30, 45, 68, 101, 152, 228]


def test_the_rule_stops_at_the_first_look_that_had_the_chance_to_see_a_rare_slow_step() -> None:
    """It looks at 30, 45, 68 and 101 steps."""
    rng = np.random.default_rng(8)
    times = independent(rng, 120, 0.001).tolist()
    assert sure_after([times], Rule(5, 30, 300, 0.01)) == 5 + 101
    assert sure_after([times[:105]], Rule(5, 30, 300, 0.01)) is None


def test_a_few_slow_steps_are_not_enough_to_know_how_often_they_come() -> None:
    rng = np.random.default_rng(8)
    times = independent(rng, 240, 0.001)
    times[20:60:20] += 0.1
    assert sure_after([times.tolist()], Rule(5, 30, 300, 0.01)) is None
    times[6::10] += 0.1
    assert sure_after([times.tolist()], Rule(5, 30, 300, 0.01)) == 5 + 152
    assert sure_after([times.tolist()], Rule(5, 30, 300, None)) is None


def test_the_rule_without_a_precision_is_never_sure() -> None:
    times = [1.0] * 120
    assert sure_after([times], Rule(5, 30, 300, None)) is None


def test_the_rule_waits_for_the_rank_that_is_least_sure() -> None:
    rng = np.random.default_rng(9)
    quiet, noisy = independent(rng, 200, 0.001).tolist(), independent(rng, 200, 0.2).tolist()
    assert sure_after([quiet, noisy], Rule(5, 30, 300, 0.01)) is None
    assert sure_after([], Rule(5, 30, 300, 0.01)) is None


def test_three_pairs_have_the_ratio_worked_out_by_hand() -> None:
    """Ratios 1.1, 1.2, 1.1: logarithms 0.0953102, 0.1823216, 0.0953102; mean 0.1243140, std 0.0502360; t(0.975, 2) =
    4.302653; half width 4.302653 x 0.0502360 / sqrt(3) = 0.1247929. exp of the mean and the ends."""
    found = paired([1.0, 2.0, 3.0], [1.1, 2.4, 3.3])
    assert found.ratio == pytest.approx(1.132371, abs=1e-5)
    assert (found.low, found.high) == (pytest.approx(0.999521, abs=1e-5), pytest.approx(1.282881, abs=1e-5))
    # Of four such pairs the half width is t(0.975, 3) = 3.182446 x 0.0502360 / 2 = 0.0799: one more would do.
    assert (found.resolved, found.more_repeats, found.pairs) == (False, 1, 3)


def test_two_of_the_same_are_called_different_in_5_of_100_cases() -> None:
    """40 comparisons of five pairs; a perfect 5 % test calls more than 5 of 40 different in 1.4 % of such trials."""
    rng = np.random.default_rng(10)
    called = sum(paired(independent(rng, 5, 0.01), independent(rng, 5, 0.01)).resolved for _ in range(40))
    assert called <= 5


def test_two_percent_more_time_are_resolved_by_twelve_pairs_with_1_percent_of_noise() -> None:
    rng = np.random.default_rng(11)
    found = paired(independent(rng, 12, 0.01), 1.02 * independent(rng, 12, 0.01))
    assert found.resolved and found.low <= 1.02 <= found.high


def test_one_pair_says_nothing_of_how_runs_differ() -> None:
    with pytest.raises(ValueError, match=r"1 pair\(s\) of runs have no spread; give at least two repeats"):
        paired([1.0], [1.1])
