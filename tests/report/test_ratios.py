"""Ratios between rows: what is resolved, what is compared at all, which row is the fastest."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mfubench.report.overview import RatioLine, overview
from mfubench.report.pooling import pool
from mfubench.report.ratios import step_time_ratio
from mfubench.result import Result

Made = Callable[..., Result]
Repeats = Callable[..., list[Result]]


@pytest.fixture
def two(repeats: Repeats) -> Callable[..., list[Result]]:
    """The repeats of two frameworks whose steps took so long."""

    def made(one: list[float], other: list[float], **changes: Any) -> list[Result]:
        return repeats("seed=1", seconds=one, framework="tool", **changes) + repeats(
            "seed=1", seconds=other, framework="other", **changes
        )

    return made


def lines(runs: list[Result]) -> list[RatioLine]:
    """The comparisons of all tasks."""
    return [line for ratios in overview(runs).ratios.values() for line in ratios]


def noisy(rng: random.Random, n: int, mean: float) -> list[float]:
    """Steps with 1 % of noise between runs."""
    return [rng.gauss(mean, 0.01 * mean) for _ in range(n)]


def test_a_resolved_difference_is_a_ratio_with_its_interval(two: Repeats) -> None:
    found = overview(two([0.2, 0.202, 0.198], [0.22, 0.2222, 0.2176]))
    ((title, (line,)),) = found.ratios.items()
    assert title == "time per step, relative to tool full"
    assert line.text == "other full: 1.100× ± 0.001 (3 pairs)"
    assert line.differences == "" and found.note == ""
    assert [row.fastest for row in found.rows] == [True, False]


def test_a_difference_that_is_not_resolved_is_none_and_says_what_would_resolve_it(two: Repeats) -> None:
    (line,) = lines(two([0.2, 0.204, 0.196], [0.202, 0.2, 0.2]))
    assert line.text.startswith("other full: no difference resolved (1.003× ± 0.052, 3 pairs; about ")
    assert line.text.endswith(" more would)") and len(line.text) < 90


def test_an_interval_that_says_next_to_nothing_is_given_by_its_ends(two: Repeats) -> None:
    texts = [line.text for other in (0.25, 0.6) for line in lines(two([0.2, 0.21], [0.22, other]))]
    assert "no difference resolved (1.14× (0.69× to 1.89×), 2 pairs; " in texts[0]
    assert "(1.77× (less than 0.01× to more than 100×), 2 pairs; " in texts[1]


def test_single_runs_are_never_resolved_however_far_apart(two: Repeats) -> None:
    found = overview(two([0.2], [0.4]))
    assert next(iter(found.ratios.values()))[0].text == "other full: 2.000× ± 0.028 in these runs"
    assert "repeat=range(3)" in found.note
    assert not any(row.fastest for row in found.rows)


def test_two_of_the_same_are_called_different_in_5_of_100_cases(two: Repeats) -> None:
    """40 comparisons of five repeats each way; more than 5 would be called different in 1.4 % of such trials."""
    rng = random.Random(1)
    for group in ("sweep", None):  # in pairs, and as two groups
        called = 0
        for _ in range(40):
            one, other = pool(two(noisy(rng, 5, 0.2), noisy(rng, 5, 0.2), group=group))
            called += step_time_ratio(one, other).resolved
        assert called <= 5


@pytest.mark.parametrize("group", ["sweep", None])
def test_two_percent_more_time_are_resolved_with_1_percent_of_noise(two: Repeats, group: str | None) -> None:
    rng = random.Random(2)
    one, other = pool(two(noisy(rng, 12, 0.2), noisy(rng, 12, 0.204), group=group))
    found = step_time_ratio(one, other)
    assert found.resolved and found.low <= 1.02 <= found.high
    assert found.basis == ("pairs" if group else "runs")


def test_pairs_see_through_a_machine_that_slows_down_meanwhile(two: Repeats) -> None:
    slower = [1.0, 1.05, 1.1, 1.15]
    times = (
        [0.2 * by for by in slower],
        [0.204 * by * wobble for by, wobble in zip(slower, (1, 1.001, 1, 0.999), strict=True)],
    )
    assert step_time_ratio(*pool(two(*times))).resolved
    assert not step_time_ratio(*pool(two(*times, group=None))).resolved


def test_other_work_stands_under_the_ratio_and_leaves_no_winner(result: Made, repeats: Repeats) -> None:
    work = result().work or {}
    more = {**work, "trainable_parameters": 99, "recomputation": "reentrant", "recomputed": {"Block": 4}}
    runs = repeats("seed=1", seconds=[0.2, 0.2]) + repeats("seed=2", seconds=[0.3, 0.3], work=more)
    found = overview(runs)
    assert lines(runs)[0].differences == (
        "over different work: trainable parameters 99 instead of 12,586,368; "
        "recomputation reentrant of 4 blocks instead of none"
    )
    assert not any(row.fastest for row in found.rows)


def test_another_way_to_do_the_same_work_may_win(result: Made, repeats: Repeats) -> None:
    kernels = {**(result().work or {}), "liger_kernels": ["liger_kernel.transformers.rope.liger_rotary_pos_emb"]}
    found = overview(repeats("seed=1", seconds=[0.3, 0.3]) + repeats("seed=2", seconds=[0.2, 0.2], work=kernels))
    assert next(iter(found.ratios.values()))[0].differences == (
        "the same work, done otherwise: Liger kernels rope instead of none"
    )
    assert [row.fastest for row in found.rows] == [False, True]


def test_fewer_positions_are_other_work(result: Made, repeats: Repeats) -> None:
    packed = {"positions_per_step": 400}
    runs = [result("seed=1"), result("seed=2", measurement=packed)]
    assert "positions per step 400 instead of 512" in lines(runs)[0].differences


def test_tf32_is_a_difference_on_a_gpu_and_none_on_a_cpu(result: Made) -> None:
    on = {**(result().work or {}), "tf32": True}
    said = [
        lines([result("seed=1", hardware={"device": device}), result("seed=2", work=on, hardware={"device": device})])
        for device in ("cpu", "cuda")
    ]
    assert [line.differences for (line,) in said] == ["", "the same work, done otherwise: TF32 yes instead of no"]


def test_only_the_fastest_of_all_wins(repeats: Repeats) -> None:
    """The second and third can't be told apart, so neither is the fastest, though both beat the first."""
    runs = [
        *repeats("seed=1", seconds=[0.3, 0.301, 0.302]),
        *repeats("seed=2", seconds=[0.2, 0.201, 0.203]),
        *repeats("seed=3", seconds=[0.2, 0.202, 0.201]),
    ]
    found = overview(runs)
    assert not any(row.fastest for row in found.rows)
    assert [row.fastest for row in overview(runs[:6]).rows] == [False, True]


def test_rows_of_other_batch_sizes_modes_models_or_lengths_of_measurement_are_not_compared(repeats: Repeats) -> None:
    for other in ("batch_size=4", "mode=lora", "model=qwen3-8b", "sequence_length=64", "measurement=quick"):
        found = overview(repeats(seconds=[0.2, 0.2]) + repeats(other, seconds=[0.3, 0.3]))
        assert not found.ratios and not any(row.fastest for row in found.rows)


def test_the_ratios_of_several_tasks_say_which(repeats: Repeats) -> None:
    runs = [
        run
        for batch in (1, 4)
        for seed in (1, 2)
        for run in repeats(f"batch_size={batch}", f"seed={seed}", seconds=[0.2 * seed, 0.2 * seed])
    ]
    assert [(title, line.text) for title, (line,) in overview(runs).ratios.items()] == [
        (
            f"time per step, relative to hf_trainer full · batch {batch} · seed 1",
            f"hf_trainer full · batch {batch} · seed 2: 2.00000× ± 0.00000 (2 pairs)",
        )
        for batch in (1, 4)
    ]


def test_more_rows_than_anyone_reads_have_no_ratios(repeats: Repeats) -> None:
    runs = [run for seed in range(9) for run in repeats(f"seed={seed}", seconds=[0.2 + seed / 10, 0.2 + seed / 10])]
    assert not overview(runs).ratios
    assert len(lines(runs[:16])) == 7
    assert [row.fastest for row in overview(runs).rows] == [True, *[False] * 8]
