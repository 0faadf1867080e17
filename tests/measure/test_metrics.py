"""Step time, rates and utilisations, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest

from mfubench.flops.counts import FlopCount
from mfubench.hardware.conditions import GpuConditions
from mfubench.hardware.peaks import Ceiling, Peak
from mfubench.measure.intervals import widened
from mfubench.measure.metrics import (
    as_executed,
    boundaries_here,
    impossible,
    joules_per_token,
    mean_flops,
    measurement_of,
    mfu_at_clock,
    of_ceiling,
    steady_window_s,
    step_history,
    usd_per_million_tokens,
)
from mfubench.records.reading import MicroBatch, RankRecord, Records

PEAK = Peak(100e12, "bf16", "a data sheet", measured=False)
NO_GPU = GpuConditions(
    "GPU-1", 0, None, None, None, None, None, None, None, None, (), 0, None, None, None
)  # that tells nothing
STEP = FlopCount(
    model_flops=40 * 10**12,
    model_flops_causal=36 * 10**12,
    hardware_flops=50 * 10**12,
    hardware_flops_causal=45 * 10**12,
    parameters=10,
    trainable_parameters=10,
    uncounted={},
)


def flops(batch_size: int, sequence_length: int) -> FlopCount:
    """40 TFLOP of model FLOPs for 2 x 256 positions; half from plain products and half from attention, b x s²."""
    linear, square = batch_size * sequence_length / 512, batch_size * sequence_length**2 / (2 * 256**2)
    return replace(
        STEP,
        **{
            name: round(getattr(STEP, name) * (linear + square) / 2)
            for name in ("model_flops", "model_flops_causal", "hardware_flops", "hardware_flops_causal")
        },
    )


def rank_of(rank: int, times: list[float], micro_batches: int = 1, real: int | None = 480) -> RankRecord:
    return rank_over(rank, times, [[(2, 256)] * micro_batches] * len(times), real)


def rank_over(rank: int, times: list[float], shapes: list[list[tuple[int, int]]], real: int | None = 480) -> RankRecord:
    """A rank whose steps took these times, over micro-batches of these shapes."""
    boundaries = tuple(accumulate([100.0, *times]))
    return RankRecord(
        rank=rank,
        pid=1000 + rank,
        boundaries_s=boundaries,
        wall_boundaries_s=boundaries,
        device_step_times_s=None,
        micro_batches=tuple(tuple(MicroBatch(*shape, real, 500) for shape in step) for step in shapes),
        peak_memory_bytes=10**9 + rank,
        memory_kind="process_peak_rss",
        work={},
        versions={},
        errors=(),
    )


def test_warm_up_is_dropped_and_rates_are_work_over_the_mean() -> None:
    # Two warm-up steps; then 1, 2 and 3 s: mean 2, median 2, std 1.
    m = measurement_of(Records((rank_of(0, [9.0, 9.0, 1.0, 2.0, 3.0]),)), flops, PEAK, warmup_steps=2, steps=3)
    assert (m.steps, m.warmup_steps) == (3, 2)
    assert m.step_time_s == pytest.approx(2.0)
    assert (m.step_time_s_median, m.step_time_s_std) == pytest.approx((2.0, 1.0))
    assert (m.step_time_s_min, m.step_time_s_max) == pytest.approx((1.0, 3.0))
    assert (m.ci95, m.relative_half_width) == ({}, None)  # three steps are too few for an interval
    assert m.tokens_per_second_per_device == pytest.approx(512 / 2)
    assert m.model_tflops_per_second_per_device == pytest.approx(40 / 2)
    assert m.hardware_tflops_per_second_per_device == pytest.approx(50 / 2)
    assert (m.mfu, m.mfu_causal, m.hfu, m.hfu_causal) == pytest.approx((0.20, 0.18, 0.25, 0.225))
    assert m.peak_memory_bytes == 10**9


def test_steps_that_are_slow_after_the_warm_up_are_left_out_too() -> None:
    """Two of warm-up, then three more slow ones, then 1 s and a little, in turns."""
    times = [9.0, 9.0, 3.0, 2.0, 1.5] + [1.0, 1.01, 0.99] * 9
    m = measurement_of(Records((rank_of(0, times),)), flops, PEAK, warmup_steps=2, steps=30)
    assert (m.warmup_steps, m.steps, m.settled) == (5, 27, True)
    assert m.steady_because.startswith("warm-up ended before step 6")
    assert m.step_time_s == pytest.approx(1.0)
    assert m.relative_half_width == pytest.approx((m.ci95["step_time_s"][1] or 0) - 1.0)
    rows = step_history(Records((rank_of(0, times),)), flops, PEAK, m)
    assert [row["warmup"] for row in rows] == [1] * 5 + [0] * 27
    assert steady_window_s(rank_of(0, times).boundaries_s, m) == pytest.approx((100 + 24.5, 100 + 24.5 + 27))


def test_steps_are_timed_beside_the_machine_by_a_rank_of_this_host() -> None:
    """The measured rank is on another node, whose clock began at another time."""
    far = replace(rank_of(0, [9.0, 2.0, 3.0]), node="b")
    near = replace(rank_of(1, [8.0, 2.0, 2.0]), node="a")
    records = Records((far, near))
    m = measurement_of(records, flops, PEAK, warmup_steps=1, steps=2)
    assert m.rank == 0
    assert boundaries_here(records, m, "a") == pytest.approx((100, 108, 110, 112))
    assert boundaries_here(records, m, "b") == pytest.approx((100, 109, 111, 114))
    one_host = Records((rank_of(0, [9.0, 2.0, 3.0]),))
    assert boundaries_here(one_host, m, None) == pytest.approx((100, 109, 111, 114))


def test_too_few_steps_tell_nothing_of_steadiness() -> None:
    m = measurement_of(Records((rank_of(0, [9.0, 3.0, 2.0, 1.0]),)), flops, PEAK, warmup_steps=1, steps=3)
    assert (m.warmup_steps, m.steps, m.settled, m.drift) == (1, 3, None, None)


def test_the_latest_rank_says_where_all_are_steady() -> None:
    steady, late = [1.0, 1.01, 0.99] * 10, [3.0, 3.0, 3.0] + [1.0, 1.01, 0.99] * 9
    m = measurement_of(Records((rank_of(0, steady), rank_of(1, late))), flops, PEAK, warmup_steps=0, steps=30)
    assert (m.warmup_steps, m.steps) == (3, 27)


def test_energy_per_token_is_that_of_all_devices_over_all_positions() -> None:
    m = measurement_of(Records((rank_of(0, [1.0] * 4), rank_of(1, [1.0] * 4))), flops, PEAK, warmup_steps=0, steps=4)
    told = replace(NO_GPU, energy_j=512.0)  # in 4 steps of 512 positions
    assert joules_per_token(m, (told, told), 2) == pytest.approx(0.25)
    assert joules_per_token(m, (told,), 2) is None and joules_per_token(m, (told, NO_GPU), 2) is None


def test_the_price_of_a_million_tokens_is_that_of_all_devices_over_all_positions() -> None:
    """Two devices at 1.8432 US$ an hour each: 0.001024 US$ a second, for 2 x 512 positions."""
    m = measurement_of(Records((rank_of(0, [1.0] * 4), rank_of(1, [1.0] * 4))), flops, PEAK, warmup_steps=0, steps=4)
    assert usd_per_million_tokens(m, 1.8432) == pytest.approx(1.0)
    assert usd_per_million_tokens(m, None) is None


def test_what_was_executed_is_held_against_the_measured_ceiling() -> None:
    m = measurement_of(Records((rank_of(0, [1.0] * 4),)), flops, PEAK, warmup_steps=0, steps=4)
    assert of_ceiling(m, PEAK, Ceiling(75e12, "measured")) == pytest.approx(45 / 75)
    assert of_ceiling(m, PEAK, None) is None


def test_the_interval_of_a_rate_is_that_of_the_time_turned_over() -> None:
    m = measurement_of(Records((rank_of(0, [1.0, 1.01] * 10),)), flops, PEAK, warmup_steps=0, steps=20)
    low_s, high_s = m.ci95["step_time_s"]
    assert high_s is not None
    assert m.ci95["mfu"] == pytest.approx((0.4 / high_s, 0.4 / low_s))
    assert m.ci95["tokens_per_second_per_device"] == pytest.approx((512 / high_s, 512 / low_s))


def test_the_interval_of_a_share_takes_in_that_of_a_measured_peak() -> None:
    """The step time is known exactly, the peak to ±5 %: so is the MFU. With ±12 % of the time, 12-5-13."""
    known, measured = [2.0] * 20, replace(PEAK, measured=True, relative_half_width=0.05)
    m = measurement_of(Records((rank_of(0, known),)), flops, measured, warmup_steps=0, steps=20)
    assert m.ci95["mfu"] == pytest.approx((0.95 * m.mfu, 1.05 * m.mfu))
    assert m.ci95["tokens_per_second_per_device"] == pytest.approx((256.0, 256.0))
    assert widened(2.0, (2.0 * 0.88, 2.0 * 1.12), 0.05) == pytest.approx((2.0 * 0.87, 2.0 * 1.13))
    assert widened(2.0, (0.1, None), 0.9) == (0.0, None)


def test_mfu_at_the_clock_is_over_the_peak_at_the_mean_clock_of_the_devices() -> None:
    """The peak holds at 2 GHz; two devices ran at 1.5 and 1.7 GHz: 0.2 x 2 / 1.6 = 0.25."""
    sheet = replace(PEAK, clock_hz=2e9)
    m = measurement_of(Records((rank_of(0, [2.0] * 4),)), flops, sheet, warmup_steps=0, steps=4)
    devices = [replace(NO_GPU, sm_clock_mhz_mean=clock) for clock in (1500.0, 1700.0)]
    assert mfu_at_clock(m, sheet, devices) == pytest.approx(0.25)
    assert mfu_at_clock(m, sheet, [NO_GPU]) is None and mfu_at_clock(m, PEAK, devices) is None


def test_a_time_whose_interval_reaches_zero_leaves_the_rates_without_an_upper_end() -> None:
    m = measurement_of(Records((rank_of(0, [0.1] * 19 + [900.0]),)), flops, PEAK, warmup_steps=0, steps=20)
    assert m.ci95["step_time_s"][0] < 0
    assert m.ci95["mfu"][1] is None


def test_the_figure_is_that_of_the_rank_with_the_longest_window() -> None:
    records = Records((rank_of(0, [5.0, 1.0, 1.0, 1.0]), rank_of(1, [1.0, 1.2, 1.3, 1.4])))
    m = measurement_of(records, flops, PEAK, warmup_steps=1, steps=3)
    assert (m.rank, m.step_time_s) == (1, pytest.approx(1.3))
    assert m.rank_spread == pytest.approx((3.9 - 3.0) / 3.9)
    assert m.peak_memory_bytes == 10**9 + 1


def test_periods_beyond_those_asked_for_do_not_count() -> None:
    m = measurement_of(Records((rank_of(0, [9.0, 1.0, 1.0, 50.0]),)), flops, PEAK, warmup_steps=1, steps=2)
    assert (m.steps, m.step_time_s) == (2, pytest.approx(1.0))


def test_accumulated_micro_batches_add_up_to_the_steps_tokens() -> None:
    m = measurement_of(Records((rank_of(0, [2.0, 2.0, 2.0], micro_batches=4),)), flops, PEAK, warmup_steps=1, steps=2)
    assert m.positions_per_step == 4 * 512
    assert (m.real_tokens_per_step, m.trained_tokens_per_step) == (4 * 480, 4 * 500)
    assert m.padding_fraction == pytest.approx(1 - 480 / 512)
    assert m.tokens_per_second_per_device == pytest.approx(4 * 512 / 2)


def test_the_work_of_varying_micro_batches_is_the_sum_over_their_shapes() -> None:
    """Warm-up 2 x 512; then 2 x 256 (40 TFLOP) in 1 s and [1 x 128 and 1 x 128] in 0.5 s.

    One of 1 x 128: a quarter of the positions, an eighth of the pairs: 40 x (1/4 + 1/8) / 2 = 7.5 TFLOP.
    """
    rank = rank_over(0, [9.0, 1.0, 0.5], [[(2, 512)], [(2, 256)], [(1, 128), (1, 128)]], real=96)
    m = measurement_of(Records((rank,)), flops, PEAK, warmup_steps=1, steps=2)
    assert m.model_tflops_per_second_per_device == pytest.approx((40 + 15) / 1.5)
    assert m.mfu == pytest.approx(55e12 / 1.5 / 100e12)
    assert m.mfu_causal == pytest.approx(55e12 / 1.5 / 100e12 * 36 / 40)
    assert m.hfu == pytest.approx(55e12 / 1.5 / 100e12 * 50 / 40)
    assert m.tokens_per_second_per_device == pytest.approx((512 + 256) / 1.5)
    assert m.positions_per_step == 384
    assert (m.sequence_length_min, m.sequence_length_max) == (128, 256)
    assert m.sequence_length_mean == pytest.approx((256 + 128 + 128) / 3)
    assert m.padding_fraction == pytest.approx(1 - 3 * 96 / 768)
    mean = mean_flops(Records((rank,)), flops, m)
    assert (mean.model_flops, mean.hardware_flops) == (27.5e12, 27.5e12 * 50 / 40)
    assert (mean.parameters, mean.trainable_parameters) == (10, 10)


def test_the_mean_of_equal_steps_is_the_step_to_the_last_flop() -> None:
    odd = replace(STEP, model_flops=10**18 + 1, uncounted={"aten.mystery_mm": 7})
    records = Records((rank_of(0, [1.0, 1.1, 1.2], micro_batches=3),))
    m = measurement_of(records, lambda *_: odd, PEAK, warmup_steps=0, steps=3)
    assert mean_flops(records, lambda *_: odd, m) == odd.scaled(3)


def test_a_rate_is_surer_than_its_time_where_the_time_follows_the_work() -> None:
    """Sequences of 128 and 256 alternate and take as long as they have positions, but for 1 %: rates hardly vary."""
    lengths = [128, 256] * 10
    times = [length / 256 * (1.01 if index % 4 < 2 else 0.99) for index, length in enumerate(lengths)]
    m = measurement_of(Records((rank_over(0, times, [[(2, length)] for length in lengths]),)), flops, PEAK, 0, 20)
    low_s, high_s = m.ci95["step_time_s"]
    low, high = m.ci95["tokens_per_second_per_device"]
    assert high_s is not None and high is not None
    assert (high_s - low_s) / m.step_time_s > 0.3
    assert (high - low) / m.tokens_per_second_per_device < 0.02
    assert low < m.tokens_per_second_per_device < high


def test_history_has_each_steps_own_figures_warm_up_included() -> None:
    rank = rank_over(1, [2.0, 1.0, 0.5, 7.0], [[(2, 256)], [(2, 256)], [(1, 128), (1, 128)], [(2, 256)]])
    other = rank_over(0, [1.0, 0.2, 0.2, 0.2], [[(2, 256)], [(2, 256)], [(1, 128), (1, 128)], [(2, 256)]])
    records = Records((other, rank))
    m = measurement_of(records, flops, PEAK, warmup_steps=1, steps=2)
    first, second, third = step_history(records, flops, PEAK, m)
    assert first == pytest.approx(
        {
            "step": 1,
            "warmup": 1,
            "step_time_s": 2.0,
            "tokens_per_second_per_device": 256,
            "mfu": 0.2,
            "hfu": 0.25,
            "model_tflops_per_second_per_device": 20,
            "hardware_tflops_per_second_per_device": 25,
        }
    )
    assert (second["warmup"], second["mfu"]) == (0, pytest.approx(0.4))
    # 15 TFLOP and 256 positions in half a second
    assert (third["step"], third["warmup"], third["tokens_per_second_per_device"]) == (3, 0, pytest.approx(512))
    assert (third["mfu"], third["hfu"]) == pytest.approx((0.3, 0.375))
    mean = sum(row["step_time_s"] for row in (second, third)) / 2
    assert mean == pytest.approx(m.step_time_s)


@pytest.mark.parametrize(
    ("attention", "skips"),
    [
        ({"sdpa_calls": 8, "sdpa_causal_calls": 8}, True),
        ({"sdpa_calls": 8, "sdpa_causal_calls": 0}, False),
        ({"sdpa_calls": 0, "sdpa_causal_calls": 0}, True),
        ({"sdpa_calls": None}, True),
        (None, True),
    ],
)
def test_the_masked_half_counts_where_sdpa_was_given_a_mask(
    attention: dict[str, int | None] | None, skips: bool
) -> None:
    rank = replace(rank_of(0, [1.0, 1.0]), work={"attention": attention})
    counted = as_executed(flops, Records((rank,)))(2, 256)
    assert counted.hardware_flops_causal == (STEP.hardware_flops_causal if skips else STEP.hardware_flops)
    assert replace(counted, hardware_flops_causal=0) == replace(STEP, hardware_flops_causal=0)


def test_tokens_that_were_not_seen_are_not_made_up() -> None:
    m = measurement_of(Records((rank_of(0, [2.0, 2.0], real=None),)), flops, PEAK, warmup_steps=0, steps=2)
    assert (m.real_tokens_per_step, m.padding_fraction) == (None, None)


def test_fewer_than_two_steady_steps_are_no_measurement() -> None:
    with pytest.raises(ValueError, match="have no spread"):
        measurement_of(Records((rank_of(0, [1.0, 1.0]),)), flops, PEAK, warmup_steps=1, steps=1)


def test_more_flops_per_second_than_the_chip_can_do_is_impossible() -> None:
    fast = measurement_of(Records((rank_of(0, [0.4, 0.4]),)), flops, PEAK, warmup_steps=0, steps=2)
    assert fast.hfu_causal > 1
    (difference,) = impossible(fast, STEP, PEAK)
    assert (difference.asked, difference.seen) == ("at most 100 TFLOP/s, a data sheet", "112.5 TFLOP/s")
    # Full-square HFU may pass 1 where the kernel skips the masked half: only the causal figure is held against the peak.
    legal = measurement_of(Records((rank_of(0, [0.46, 0.46]),)), flops, PEAK, warmup_steps=0, steps=2)
    assert legal.hfu > 1 > legal.hfu_causal
    assert impossible(legal, STEP, PEAK) == ()
    # A peak that was itself measured is noisy; beating it is a warning.
    assert impossible(fast, STEP, Peak(100e12, "fp32", "measured", measured=True)) == ()


def test_an_operator_without_a_formula_is_named() -> None:
    m = measurement_of(Records((rank_of(0, [1.0, 1.0]),)), flops, PEAK, warmup_steps=0, steps=2)
    (difference,) = impossible(m, replace(STEP, uncounted={"aten.mystery_mm": 32}), PEAK)
    assert "aten.mystery_mm ×32" in difference.seen


def test_work_is_the_mean_of_all_ranks_whichever_waited_longest() -> None:
    longer = rank_over(0, [1.0, 1.0, 1.0], [[(2, 256)]] * 3)
    shorter = rank_over(1, [1.0, 1.0, 1.0], [[(2, 128)]] * 3)
    m = measurement_of(Records((longer, shorter)), flops, PEAK, warmup_steps=1, steps=2)
    assert (m.positions_per_step, m.tokens_per_second_per_device) == (384, pytest.approx(384))
