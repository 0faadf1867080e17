"""Step time, rates and utilisations, against numbers worked out by hand."""

from __future__ import annotations

from itertools import accumulate

import pytest

from mfubench.flops import FlopCount
from mfubench.hardware import Peak
from mfubench.metrics import impossible, measure
from mfubench.records import MicroBatch, RankRecord, Records

PEAK = Peak(100e12, "bf16", "a data sheet", measured=False)
FLOPS = FlopCount(
    model_flops=40 * 10**12,
    model_flops_causal=36 * 10**12,
    hardware_flops=50 * 10**12,
    hardware_flops_causal=45 * 10**12,
    parameters=10,
    trainable_parameters=10,
    uncounted={},
)


def rank_of(rank: int, times: list[float], micro_batches: int = 1, real: int | None = 480) -> RankRecord:
    boundaries = tuple(accumulate([100.0, *times]))
    batch = MicroBatch(2, 256, real, 500)
    return RankRecord(
        rank=rank,
        pid=1000 + rank,
        boundaries_s=boundaries,
        wall_boundaries_s=boundaries,
        device_step_times_s=None,
        micro_batches=tuple((batch,) * micro_batches for _ in times),
        peak_memory_bytes=10**9 + rank,
        memory_kind="process_peak_rss",
        work={},
        versions={},
        errors=(),
    )


def test_warm_up_is_dropped_and_rates_are_work_over_the_mean() -> None:
    # Two warm-up steps; then 1, 2 and 3 s: mean 2, median 2, std 1. Student's t for 2 degrees of freedom is 4.3027.
    m = measure(Records((rank_of(0, [9.0, 9.0, 1.0, 2.0, 3.0]),)), FLOPS, PEAK, warmup_steps=2, steps=3)
    assert (m.steps, m.warmup_steps) == (3, 2)
    assert m.step_time_s == pytest.approx(2.0)
    assert (m.step_time_s_median, m.step_time_s_std) == pytest.approx((2.0, 1.0))
    assert (m.step_time_s_min, m.step_time_s_max) == pytest.approx((1.0, 3.0))
    assert m.ci95["step_time_s"] == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-5)
    assert m.tokens_per_second_per_device == pytest.approx(512 / 2)
    assert m.model_tflops_per_second_per_device == pytest.approx(40 / 2)
    assert m.hardware_tflops_per_second_per_device == pytest.approx(50 / 2)
    assert (m.mfu, m.mfu_causal, m.hfu, m.hfu_causal) == pytest.approx((0.20, 0.18, 0.25, 0.225))
    assert m.peak_memory_bytes == 10**9


def test_the_interval_of_a_rate_is_that_of_the_time_turned_over() -> None:
    m = measure(Records((rank_of(0, [1.0, 1.01] * 10),)), FLOPS, PEAK, warmup_steps=0, steps=20)
    low_s, high_s = m.ci95["step_time_s"]
    assert high_s is not None
    assert m.ci95["mfu"] == pytest.approx((0.4 / high_s, 0.4 / low_s))
    assert m.ci95["tokens_per_second_per_device"] == pytest.approx((512 / high_s, 512 / low_s))


def test_a_time_whose_interval_reaches_zero_leaves_the_rates_without_an_upper_end() -> None:
    m = measure(Records((rank_of(0, [0.1, 5.0]),)), FLOPS, PEAK, warmup_steps=0, steps=2)
    assert m.ci95["step_time_s"][0] < 0
    assert m.ci95["mfu"][1] is None


def test_the_figure_is_that_of_the_rank_with_the_longest_window() -> None:
    records = Records((rank_of(0, [5.0, 1.0, 1.0, 1.0]), rank_of(1, [1.0, 1.2, 1.3, 1.4])))
    m = measure(records, FLOPS, PEAK, warmup_steps=1, steps=3)
    assert (m.rank, m.step_time_s) == (1, pytest.approx(1.3))
    assert m.rank_spread == pytest.approx((3.9 - 3.0) / 3.9)
    assert m.peak_memory_bytes == 10**9 + 1


def test_periods_beyond_those_asked_for_do_not_count() -> None:
    m = measure(Records((rank_of(0, [9.0, 1.0, 1.0, 50.0]),)), FLOPS, PEAK, warmup_steps=1, steps=2)
    assert (m.steps, m.step_time_s) == (2, pytest.approx(1.0))


def test_accumulated_micro_batches_add_up_to_the_steps_tokens() -> None:
    m = measure(Records((rank_of(0, [2.0, 2.0, 2.0], micro_batches=4),)), FLOPS, PEAK, warmup_steps=1, steps=2)
    assert m.positions_per_step == 4 * 512
    assert (m.real_tokens_per_step, m.trained_tokens_per_step) == (4 * 480, 4 * 500)
    assert m.padding_fraction == pytest.approx(1 - 480 / 512)
    assert m.tokens_per_second_per_device == pytest.approx(4 * 512 / 2)


def test_tokens_that_were_not_seen_are_not_made_up() -> None:
    m = measure(Records((rank_of(0, [2.0, 2.0], real=None),)), FLOPS, PEAK, warmup_steps=0, steps=2)
    assert (m.real_tokens_per_step, m.padding_fraction) == (None, None)


def test_fewer_than_two_steady_steps_are_no_measurement() -> None:
    with pytest.raises(ValueError, match="have no spread"):
        measure(Records((rank_of(0, [1.0, 1.0]),)), FLOPS, PEAK, warmup_steps=1, steps=1)


def test_more_flops_per_second_than_the_chip_can_do_is_impossible() -> None:
    fast = measure(Records((rank_of(0, [0.4, 0.4]),)), FLOPS, PEAK, warmup_steps=0, steps=2)
    assert fast.hfu_causal > 1
    (difference,) = impossible(fast, FLOPS, PEAK)
    assert (difference.asked, difference.seen) == ("at most 100 TFLOP/s, a data sheet", "112.5 TFLOP/s")
    # Full-square HFU may pass 1 where the kernel skips the masked half: only the causal figure is held against the peak.
    legal = measure(Records((rank_of(0, [0.46, 0.46]),)), FLOPS, PEAK, warmup_steps=0, steps=2)
    assert legal.hfu > 1 > legal.hfu_causal
    assert impossible(legal, FLOPS, PEAK) == ()
    # A peak that was itself measured is noisy; beating it is a warning.
    assert impossible(fast, FLOPS, Peak(100e12, "fp32", "measured", measured=True)) == ()


def test_an_operator_without_a_formula_is_named() -> None:
    from dataclasses import replace

    m = measure(Records((rank_of(0, [1.0, 1.0]),)), FLOPS, PEAK, warmup_steps=0, steps=2)
    (difference,) = impossible(m, replace(FLOPS, uncounted={"aten.mystery_mm": 32}), PEAK)
    assert "aten.mystery_mm ×32" in difference.seen
