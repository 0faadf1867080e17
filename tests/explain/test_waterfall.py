from __future__ import annotations

import random
from dataclasses import replace

import pytest
from made_results import H200_MS, H200_PEAK, H200_STEP_S, H200_WORK, exclusive_times

from mfubench.explain.categories import CATEGORIES, Kind
from mfubench.explain.exclusive import Exclusive
from mfubench.explain.reading import reading
from mfubench.explain.waterfall import NoWaterfall, StepTime, Work, step_time, waterfall


def example() -> StepTime:
    return step_time(exclusive_times(H200_MS, steps=3), 3, H200_STEP_S, "cuda")


def test_the_worked_example_comes_out_to_the_printed_digits() -> None:
    time, found = example(), waterfall(example(), H200_WORK, "cuda")
    assert {name: round(points * 100, 2) for name, points in found.executed.items()} == {
        **{"clock": -1.97, "idle": 15.23, "elementwise": 14.36, "normalisation": 3.64, "rotary": 1.82, "loss": 2.22},
        **{"optimizer": 0.81, "copy": 0.61, "matmul": 22.40, "attention": 2.67},
    }
    assert round(found.hfu_causal * 100, 2) == 38.22
    assert {name: round(points * 100, 2) for name, points in found.needed.items()} == {
        "recomputation": 11.93,
        "other executed work": 0.26,
    }
    assert round(found.mfu_causal * 100, 2) == 26.03
    assert round(time.categories["idle"] * 1e3, 1) == 75.3
    assert time.profiled_idle == pytest.approx(0.131)
    assert time.stretch == pytest.approx(560 / 504.3)
    assert found.matmul_rate is not None and round(found.matmul_rate, 3) == 0.618


def test_the_example_read_in_words() -> None:
    time = example()
    assert reading(waterfall(time, H200_WORK, "cuda"), time) == [
        "23% of the step is work other than matmul, attention and communication; the largest part of it is elementwise, 14%.",
        "Matmuls are 58% of the step and run at 62% of the peak at the run's clock.",
        "Idle, with nothing running on the device, is 15% of the step (75.3 ms).",
    ]


def test_300_random_steps_add_up_and_end_at_hfu_and_mfu() -> None:
    draw = random.Random(0)
    for _ in range(300):
        ms = {name: draw.uniform(0, 40) for name in CATEGORIES} | {"matmul": draw.uniform(100, 300), "attention": 30}
        busy = sum(ms.values()) - ms["idle"]
        measured, device = busy * draw.uniform(0.96, 1.4) / 1e3, draw.choice(["cpu", "cuda"])
        time = step_time(exclusive_times(ms, 2), 2, measured, device)  # type: ignore[arg-type]
        assert time.seconds == pytest.approx(measured, rel=1e-12)
        ratio = draw.choice([None, draw.uniform(0.7, 1.1)])
        possible = H200_PEAK * (ratio or 1)
        attention = draw.uniform(0, 0.9) * possible * time.categories["attention"]
        hardware = attention + draw.uniform(0.1, 1) * possible * time.categories["matmul"]
        recomputation = draw.choice([0, draw.uniform(0, 0.3) * hardware])
        model = draw.uniform(0.5, 1) * (hardware - recomputation)
        work = Work(model, hardware, recomputation, attention, H200_PEAK, H200_PEAK, hardware, ratio)
        found = waterfall(time, work, device)  # type: ignore[arg-type]
        assert found.hfu_causal == pytest.approx(hardware / (H200_PEAK * measured), abs=1e-12)
        assert found.mfu_causal == pytest.approx(model / (H200_PEAK * measured), abs=1e-12)
        assert min(points for name, points in {**found.executed, **found.needed}.items() if name != "clock") > -1e-12
        assert found.needed["recomputation"] == pytest.approx(recomputation / (H200_PEAK * measured))


@pytest.mark.parametrize("stretch", [1.3, 1.6])
def test_idle_is_what_kernels_leave_of_the_measured_step_however_slow_the_profile(stretch: float) -> None:
    # 20 % idle of 100 ms; all times divided by the stretch would say 38 % and 50 %.
    time = step_time(exclusive_times({"matmul": 80, "idle": 100 * stretch - 80}), 1, 0.1, "cuda")
    assert time.categories == pytest.approx({"matmul": 0.08, "idle": 0.02})
    assert (time.stretch, time.profiled_idle) == pytest.approx((stretch, stretch / 10 - 0.08))


def test_a_cpus_times_shrink_alike() -> None:
    time = step_time(exclusive_times({"matmul": 90, "copy": 15, "idle": 45}), 1, 0.1, "cpu")
    assert time.categories == pytest.approx({"matmul": 0.06, "copy": 0.01, "idle": 0.03})


def test_kernels_that_take_a_little_longer_than_the_step_leave_no_idle() -> None:
    time = step_time(exclusive_times({"matmul": 84, "copy": 20, "idle": 30}), 1, 0.1, "cuda")
    assert time.categories == pytest.approx({"matmul": 0.1 * 84 / 104, "copy": 0.1 * 20 / 104, "idle": 0})


def test_kernels_that_take_much_longer_than_the_step_are_of_other_steps() -> None:
    with pytest.raises(NoWaterfall, match=r"106\.0 ms, the measured step 100\.0 ms.*clock"):
        step_time(exclusive_times({"matmul": 106, "idle": 30}), 1, 0.1, "cuda")


def test_without_recomputation_what_else_is_executed_has_a_term_of_its_own() -> None:
    work = replace(H200_WORK, recomputation=0.0, model=H200_WORK.hardware * 0.98)
    needed = waterfall(example(), work, "cuda").needed
    assert needed["recomputation"] == 0
    assert needed["other executed work"] == pytest.approx(0.02 * 0.3822, rel=1e-3)


def test_a_clock_below_the_peaks_own_is_a_loss_and_an_unknown_one_no_term() -> None:
    assert waterfall(example(), replace(H200_WORK, clock_ratio=0.9), "cuda").executed["clock"] == pytest.approx(0.1)
    found = waterfall(example(), replace(H200_WORK, clock_ratio=None), "cuda")
    assert "clock" not in found.executed
    assert found.hfu_causal == pytest.approx(0.3822, abs=5e-5)


def test_eager_attentions_products_are_matmuls_and_its_softmax_attention() -> None:
    found = waterfall(example(), replace(H200_WORK, attention=0.0), "cuda")
    assert found.executed["attention"] == pytest.approx(H200_WORK.clock_ratio * 23 / 504.3)  # type: ignore[operator]
    assert found.hfu_causal == pytest.approx(0.3822, abs=5e-5)


def test_products_in_fp8_may_run_faster_than_the_peak_of_bf16() -> None:
    time = step_time(exclusive_times({"matmul": 100, "idle": 300}), 1, 0.4, "cuda")
    work = replace(H200_WORK, attention=0.0)
    with pytest.raises(NoWaterfall, match="matmul kernels take"):
        waterfall(time, work, "cuda")
    found = waterfall(time, replace(work, fastest_peak=2 * H200_PEAK), "cuda")
    assert found.executed["matmul"] < 0
    assert found.mfu_causal == pytest.approx(work.model / (H200_PEAK * 0.4))


def test_matmuls_faster_than_can_be_make_no_waterfall_and_the_largest_unknown_kernels_are_named() -> None:
    ms = {**H200_MS, "matmul": 150}
    kinds = {**exclusive_times(ms).kinds, **{Kind("other", f"mystery{n}", "compute"): n * 1e6 for n in (4, 1, 3, 2)}}
    time = step_time(Exclusive(kinds, 0), 1, H200_STEP_S, "cuda")
    with pytest.raises(NoWaterfall, match=r"150\.0 ms for 180\.819 TFLOP.*: mystery4, mystery3, mystery2$"):
        waterfall(time, H200_WORK, "cuda")


def test_attention_faster_than_can_be_makes_no_waterfall() -> None:
    time = step_time(exclusive_times({**H200_MS, "attention": 9}), 1, H200_STEP_S, "cuda")
    with pytest.raises(NoWaterfall, match=r"attention kernels take 9\.0 ms"):
        waterfall(time, H200_WORK, "cuda")


@pytest.mark.parametrize(
    ("device", "rate", "drawn"), [("cuda", 1.01, True), ("cuda", 1.03, False), ("cpu", 1.04, True)]
)
def test_a_measured_peak_may_be_passed_by_five_percent_and_a_data_sheets_by_two(
    device, rate: float, drawn: bool
) -> None:  # type: ignore[no-untyped-def]
    time = step_time(exclusive_times({"matmul": 100, "idle": 100}), 1, 0.2, device)
    flops = rate * H200_PEAK * 0.1
    work = Work(flops, flops, 0.0, 0.0, H200_PEAK, H200_PEAK, flops, None)
    if drawn:
        assert waterfall(time, work, device).executed["matmul"] == pytest.approx(0.5 * (1 - rate))
        return
    with pytest.raises(NoWaterfall, match="faster"):
        waterfall(time, work, device)


def test_model_flops_that_werent_executed_make_no_waterfall() -> None:
    with pytest.raises(NoWaterfall, match=r"hold 1\.000 TFLOP that weren't executed"):
        waterfall(example(), replace(H200_WORK, model=H200_WORK.hardware - H200_WORK.recomputation + 1e12), "cuda")


@pytest.mark.parametrize("factor", [0.985, 1.015])
def test_profiled_steps_of_other_shapes_make_no_waterfall(factor: float) -> None:
    waterfall(example(), replace(H200_WORK, profiled=H200_WORK.hardware * (1 + (factor - 1) / 2)), "cuda")
    with pytest.raises(NoWaterfall, match=r"measured ones 190\.719: their shapes differ; profile more steps"):
        waterfall(example(), replace(H200_WORK, profiled=H200_WORK.hardware * factor), "cuda")


def test_a_step_that_nothing_stands_out_of_has_no_sentence() -> None:
    time = step_time(exclusive_times({"matmul": 99, "copy": 1}), 1, 0.1, "cuda")
    flops = 0.98 * H200_PEAK * 0.099
    assert reading(waterfall(time, Work(flops, flops, 0.0, 0.0, H200_PEAK, H200_PEAK, flops, None), "cuda"), time) == []


def test_hidden_communication_is_a_figure_of_its_own() -> None:
    profiled = replace(exclusive_times(H200_MS, 2), hidden_communication=60_000_000)
    assert step_time(profiled, 2, H200_STEP_S, "cuda").hidden_communication == pytest.approx(0.03)
