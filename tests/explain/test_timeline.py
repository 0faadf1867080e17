"""The timeline of made-up columns: what a GPU's profile comes to, since none is needed to check the arithmetic."""

from __future__ import annotations

import time
from typing import Any

import pytest
from made_profile import ADD, GEMM, NCCL, NORM, content, many_kernels

from mfubench.explain.exclusive import by_category, exclusive
from mfubench.explain.kernels import kind
from mfubench.explain.timeline import NoProfile, timeline


def categories(made: dict[str, Any], device: Any = "cuda") -> dict[str, float]:
    """Exclusive ns of the window by category."""
    lines = timeline(made, device)
    return by_category(exclusive(lines.spans, lines.start, lines.end).kinds)


# Two steps of 100 ns by the host, which is 50 ns ahead of the device. The first kernel is of the step before the window.
TWO_STEPS = [
    (NORM, 20, 30, 7, -1, -10),
    (GEMM, 50, 60, 7, -1, 1),
    (ADD, 110, 20, 7, -1, 60),
    (GEMM, 160, 60, 7, -1, 101),
    (ADD, 220, 20, 7, -1, 190),
    (GEMM, 258, 60, 7, -1, 201),  # of the step after it
]


def test_the_window_runs_from_the_first_kernel_of_the_first_step_to_that_of_the_step_after_the_last() -> None:
    lines = timeline(content([], TWO_STEPS), "cuda")
    assert (lines.start, lines.end, lines.steps) == (50, 258, 2)
    assert categories(content([], TWO_STEPS)) == {"matmul": 120, "elementwise": 40, "idle": 30 + 18}


def test_kernels_are_counted_in_the_window() -> None:
    calls = timeline(content([], TWO_STEPS), "cuda").calls
    assert {kind.name: count for kind, count in calls.items()} == {GEMM: 2, ADD: 2}


def test_the_widest_gaps_name_what_the_host_was_in() -> None:
    host = [
        ("enumerate(DataLoader)#_BaseDataLoaderIter.__next__", 120, 40, 1, 7, 0),
        ("cudaStreamSynchronize", 130, 25, 1, 0, 0),
    ]
    gaps = timeline(content(host, TWO_STEPS), "cuda").gaps
    assert [(gap.seconds, gap.host) for gap in gaps] == [(30e-9, "cudaStreamSynchronize"), (18e-9, "")]


def test_a_kernel_takes_its_operator_and_its_phase_from_its_launch() -> None:
    softmax = "at::native::(anonymous namespace)::softmax_warp_forward<float"  # cut short: it doesn't tell
    host = [
        ("aten::_log_softmax", 10, 5, 1, 0, 0),
        ("Optimizer.step#AdamW.step", 40, 30, 1, 7, 0),
        ("aten::mul_", 45, 5, 1, 0, 0),
    ]
    device = [(softmax, 50, 10, 7, 0, None), (ADD, 60, 10, 7, 2, 46), (GEMM, 200, 5, 7, -1, 201)]
    assert categories(content(host, device)) == {"loss": 10, "optimizer": 10, "idle": 130}


def test_collectives_on_another_stream_are_communication_only_where_nothing_hides_them() -> None:
    device = [(GEMM, 0, 50, 7, -1, 0), (NCCL, 40, 40, 20, -1, 5), (GEMM, 100, 5, 7, -1, 201)]
    made = content([], device)
    lines = timeline(made, "cuda")
    found = exclusive(lines.spans, lines.start, lines.end)
    assert by_category(found.kinds) == {"matmul": 50, "communication": 30, "idle": 20}
    assert found.hidden_communication == 10


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        pytest.param([], "saw no kernel: another program", id="another holds CUPTI"),
        pytest.param(TWO_STEPS[:-1], "lost the last kernels: its buffers were full", id="full"),
    ],
)
def test_a_profile_without_its_kernels_says_why(device: list[tuple[Any, ...]], reason: str) -> None:
    with pytest.raises(NoProfile, match=reason):
        timeline(content([("cudaLaunchKernelExC", 0, 1, 1, 0, 0)], device), "cuda")


def test_a_process_that_wrote_no_profile_says_why() -> None:
    with pytest.raises(NoProfile, match="own profiler is on"):
        timeline({"skipped": "the framework's own profiler is on"}, "cpu")


def test_a_replayed_graph_is_noted() -> None:
    assert timeline(content([("cudaGraphLaunch", 0, 5, 1, 0, 0)], TWO_STEPS), "cuda").graphs
    assert not timeline(content([], TWO_STEPS), "cuda").graphs


def test_operators_of_a_cpu_count_without_those_they_contain_and_ranges_are_none() -> None:
    host = [
        ("aten::linear", 0, 40, 1, 0, 0),
        ("aten::addmm", 5, 30, 1, 0, 0),
        ("ApplyOwnFunction", 50, 40, 1, 0, 0),  # of autograd, in Python
        ("aten::mul", 60, 10, 1, 0, 0),
        ("a framework's range", 0, 200, 1, 7, 0),
        ("aten::_fused_adamw_", 150, 20, 1, 0, 0),
        ("autograd::engine::evaluate_function: MulBackward0", 100, 20, 1, 0, 0),
        ("aten::mul", 105, 10, 1, 0, 0),
        ("mylib::unknown", 180, 10, 1, 0, 0),
    ]
    found = categories(content(host, []), "cpu")
    assert found == {"matmul": 40, "elementwise": 20, "optimizer": 20, "other": 10, "idle": 110}


def test_waiting_for_a_collective_of_a_cpu_is_communication() -> None:
    host = [("c10d::allreduce_", 0, 10, 1, 0, 0), ("gloo:all_reduce", 5, 50, 1, 0, 1), ("aten::mm", 20, 10, 1, 0, 0)]
    lines = timeline(content(host, [], (0, 100)), "cpu")
    found = exclusive(lines.spans, lines.start, lines.end)
    assert by_category(found.kinds) == {"communication": 45, "matmul": 10, "idle": 45}
    assert found.hidden_communication == 10


def test_generated_code_has_one_name_whatever_its_hash() -> None:
    host = [(f"## Call CompiledFxGraph {code} ##", start, 10, 1, 7, 0) for code, start in (("fabc", 0), ("f0d1", 20))]
    assert timeline(content(host, []), "cpu").calls == {kind("## Call CompiledFxGraph"): 2}


def test_three_steps_of_20000_kernels_are_reduced_within_five_seconds() -> None:
    made = many_kernels(steps=3, kernels=20_000)
    began = time.process_time()
    lines = timeline(made, "cuda")
    found = exclusive(lines.spans, lines.start, lines.end)
    assert time.process_time() - began < 5
    assert sum(found.kinds.values()) == pytest.approx(lines.end - lines.start)
