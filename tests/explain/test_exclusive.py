from __future__ import annotations

import random

import pytest

from mfubench.explain.categories import Kind
from mfubench.explain.exclusive import IDLE, Span, by_category, exclusive, innermost

MATMUL = Kind("matmul", "nvjet", "compute")
NORM = Kind("normalisation", "_rms_norm", "compute")
CAST = Kind("copy", "direct_copy_kernel", "compute")
COLLECTIVE = Kind("communication", "ncclDevKernel_AllReduce", "collective")
MEMCPY = Kind("copy", "Memcpy DtoD", "transfer")


def test_two_streams_share_the_time_in_which_both_compute() -> None:
    found = exclusive([Span(0, 10, MATMUL), Span(6, 12, NORM)], 0, 20)
    assert found.kinds == {MATMUL: 8, NORM: 4, IDLE: 8}  # 6 + 4/2, 4/2 + 2: durations would make 16 busy
    assert found.hidden_communication == 0


def test_two_kernels_of_a_kind_count_as_two() -> None:
    found = exclusive([Span(0, 9, MATMUL), Span(0, 9, MATMUL), Span(0, 9, NORM)], 0, 9)
    assert found.kinds == {MATMUL: pytest.approx(6), NORM: pytest.approx(3)}


def test_communication_beside_computation_is_hidden() -> None:
    found = exclusive([Span(0, 10, COLLECTIVE), Span(2, 5, MATMUL)], 0, 10)
    assert (found.kinds, found.hidden_communication) == ({COLLECTIVE: 7, MATMUL: 3}, 3)


def test_a_copy_of_the_devices_own_counts_only_beside_nothing_else() -> None:
    found = exclusive([Span(0, 10, MEMCPY), Span(2, 4, MATMUL), Span(4, 7, COLLECTIVE)], 0, 10)
    assert found.kinds == {MEMCPY: 5, MATMUL: 2, COLLECTIVE: 3}


def test_a_kernel_that_copies_hides_communication_as_any_kernel_does() -> None:
    found = exclusive([Span(0, 10, COLLECTIVE), Span(0, 4, CAST)], 0, 10)
    assert (found.kinds, found.hidden_communication) == ({CAST: 4, COLLECTIVE: 6}, 4)


def test_spans_are_clipped_to_the_window() -> None:
    found = exclusive([Span(-5, 3, MATMUL), Span(8, 30, NORM), Span(-9, -1, NORM), Span(4, 4, NORM)], 0, 10)
    assert found.kinds == {MATMUL: 3, IDLE: 5, NORM: 2}


def test_self_times_of_operators_leave_out_those_they_contain() -> None:
    outer, inner = Kind("matmul", "aten::linear", "compute"), Kind("matmul", "aten::mm", "compute")
    spans = [Span(0, 10, outer), Span(2, 5, inner), Span(5, 7, NORM), Span(6, 7, inner), Span(12, 14, NORM)]
    assert exclusive(innermost(spans), 0, 16).kinds == {outer: 5, inner: 4, NORM: 3, IDLE: 4}


def test_waiting_for_a_collective_of_a_cpu_is_communication() -> None:
    collective = Kind("communication", "gloo:all_reduce", "collective")
    found = exclusive([*innermost([Span(0, 4, MATMUL), Span(1, 2, NORM)]), Span(3, 9, collective)], 0, 10)
    assert found.kinds == {MATMUL: 3, NORM: 1, collective: 5, IDLE: 1}
    assert found.hidden_communication == 1


def test_the_times_of_300_random_timelines_add_up_to_the_window() -> None:
    draw = random.Random(0)
    for _ in range(300):
        spans = [
            Span(start := draw.randrange(-50, 1000), start + draw.randrange(200), draw.choice(KINDS))
            for _ in range(draw.randrange(60))
        ]
        found = exclusive(spans, 0, 1000)
        assert sum(found.kinds.values()) == pytest.approx(1000, rel=1e-12)
        assert by_category(found.kinds) == pytest.approx(_by_moment(spans, 1000), abs=1e-9)


KINDS = [MATMUL, NORM, CAST, COLLECTIVE, MEMCPY]


def _by_moment(spans: list[Span], end: int) -> dict[str, float]:
    """The same by a second method: ask at each ns which spans run."""
    total: dict[str, float] = {}
    for moment in range(end):
        running = [span.kind for span in spans if span.start <= moment < span.end]
        ranks = [[kind for kind in running if kind.rank == rank] for rank in ("compute", "collective", "transfer")]
        among = next((kinds for kinds in ranks if kinds), [IDLE])
        for kind in among:
            total[kind.category] = total.get(kind.category, 0.0) + 1 / len(among)
    return total
