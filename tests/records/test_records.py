"""Records read from lines written by hand, against figures worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mfubench.measure.step_breakdown import StepBreakdown, step_breakdown
from mfubench.records.expected import Expected
from mfubench.records.invariants import differences
from mfubench.records.reading import Follower, MicroBatch, StepFlops, read_records

HOUR_NS = 3_600_000_000_000
WORK = {
    "event": "work",
    "root": 0,
    "world_size": 1,
    "parallel_wrappers": [],
    "trainable_parameters": 100,
    "trainable_parameters_with_gradient": 100,
    "recomputation": "none",
    "attention": {"implementation": "sdpa"},
    "liger_kernels": [],
    "compiled": False,
    "optimizers_step_copies": False,
    "seed": 3,
    "zero_stage": None,
    "optimizers": [{"class": "AdamW", "fused": True, "steps": {"float32": 100}, "state": {"float32": 200}}],
}
BEFORE = {"gradients": 4, "recomputed_calls": 0, "optimizer_t": None, "loading_ns": None, "probe_ns": 0}
ASKED = Expected(
    num_ranks=1,
    micro_batch_shape=(2, 8),
    micro_batches_per_step=1,
    periods=3,
    trainable_parameters=100,
    recomputation="none",
    wrapper=None,
    attention="sdpa",
    liger_kernels=frozenset(),
    torch_compile=False,
    optimizer_dtype="float32",
    optimizer="adamw_torch_fused",
    seed=3,
)

Lines = list[dict[str, Any]]


def start(rank: int = 0, pid: int = 7) -> dict[str, Any]:
    return {"event": "start", "pid": pid, "rank": rank, "versions": {"torch": "2.13.0"}}


def forward(step: int, at_ms: float, wall_ms: float | None = None, **more: Any) -> dict[str, Any]:
    """A training forward; `at_ms` on the monotonic clock, the same on the wall clock unless given."""
    wall = at_ms if wall_ms is None else wall_ms
    times = {"t": int(at_ms * 1e6), "w": HOUR_NS + int(wall * 1e6), "before": BEFORE}
    return {"event": "forward", **times, "root": 0, "step": step, "shape": [2, 8], "real": 12, "trained": 9, **more}


def before(optimizer_ms: float | None, loading_ms: float | None, probe_ms: float = 0.0) -> dict[str, Any]:
    """What the first forward of a step says of the step before."""
    optimizer_t, loading_ns = (None if ms is None else int(ms * 1e6) for ms in (optimizer_ms, loading_ms))
    return BEFORE | {"optimizer_t": optimizer_t, "loading_ns": loading_ns, "probe_ns": int(probe_ms * 1e6)}


def optimizer(step: int, at_ms: float, memory: int = 1000) -> dict[str, Any]:
    times = {"t": int(at_ms * 1e6), "w": HOUR_NS + int(at_ms * 1e6)}
    return {"event": "step", **times, "step": step, "peak_memory_bytes": memory, "memory_kind": "process_peak_rss"}


def run(rank: int = 0, pid: int = 7) -> Lines:
    """Three complete periods of 100, 300 and 200 ms, and the beginning of a fourth."""
    lines: Lines = [start(rank, pid), {"event": "root", "root": 0, "class": "M", "wrappers": ["M"]}]
    for step, (at, end) in enumerate([(1000, 1090), (1100, 1390), (1400, 1590)]):
        lines += [forward(step, at), optimizer(step, end, memory=1000 + step)]
    return [*lines[:4], WORK, *lines[4:], forward(3, 1600)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes the lines of each file, and says where."""

    def write(**files: Lines) -> Path:
        for name, lines in files.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / f"{name.replace('__', '.')}.jsonl").write_text(text)
        return tmp_path

    return write


def whats(folder: Path, asked: Expected = ASKED) -> list[tuple[str, str, str]]:
    return [(d.what, d.asked, d.seen) for d in differences(read_records(folder), asked)]


def test_nodes_must_have_the_same_versions_of_what_may_change_the_time_of_a_step(written: Callable[..., Path]) -> None:
    one, other = run(0), run(1)
    one[0] |= {"node": "a"}
    other[0] |= {"node": "b", "versions": {"torch": "2.12.0", "rich": "1"}}  # rich changes no step
    found = whats(written(rank0=one, rank1=other), replace(ASKED, num_ranks=2))
    assert ("version of torch", "the same on every node", "2.13.0 on a, 2.12.0 on b") in found
    assert len([what for what, _, _ in found if what.startswith("version of")]) == 1
    other[0] |= {"versions": {"torch": "2.13.0"}}
    assert not [what for what, _, _ in whats(written(rank0=one, rank1=other)) if what.startswith("version of")]


def test_a_run_is_read_as_its_periods_and_what_was_in_them(written: Callable[..., Path]) -> None:
    (rank,) = read_records(written(rank0=run())).ranks
    assert rank.step_times_s == pytest.approx((0.1, 0.3, 0.2))
    assert rank.wall_boundaries_s == pytest.approx((3601.0, 3601.1, 3601.4, 3601.6))
    assert rank.micro_batches == ((MicroBatch(2, 8, 12, 9),),) * 3
    assert (rank.rank, rank.pid, rank.peak_memory_bytes, rank.memory_kind) == (0, 7, 1002, "process_peak_rss")
    assert rank.work["trainable_parameters"] == 100
    assert rank.versions == {"torch": "2.13.0"}
    assert rank.device_step_times_s is None


def test_a_run_as_asked_has_no_differences(written: Callable[..., Path]) -> None:
    assert whats(written(rank0=run())) == []


def test_an_empty_folder_has_no_ranks_and_says_so(tmp_path: Path) -> None:
    assert read_records(tmp_path).ranks == ()
    assert read_records(tmp_path / "missing").ranks == ()
    assert whats(tmp_path) == [("ranks that trained", "0", "none")]


def test_a_torn_last_line_is_left_out(written: Callable[..., Path]) -> None:
    file = written(rank0=run()) / "rank0.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert read_records(file.parent).ranks[0].step_times_s == pytest.approx((0.1, 0.3))
    file.write_bytes(whole[: len(json.dumps(start())) - 5])
    assert read_records(file.parent).ranks == ()


def test_forwards_before_a_later_root_do_not_count(written: Callable[..., Path]) -> None:
    lines = run()
    early = [start(), {"event": "root", "root": 0, "class": "P", "wrappers": ["P"]}, forward(0, 500), optimizer(0, 600)]
    later = [{**line, "root": 1} if "root" in line else line for line in lines[1:]]
    later = [{**line, "step": line["step"] + 1} if "step" in line else line for line in later]
    (rank,) = read_records(written(rank0=early + later)).ranks
    assert rank.step_times_s == pytest.approx((0.1, 0.3, 0.2))
    assert rank.errors == ()


def test_two_models_that_train_in_turns_are_an_error(written: Callable[..., Path]) -> None:
    lines = run()
    second = [{"event": "root", "root": 1, "class": "N", "wrappers": ["N"]}, forward(4, 1700, root=1), forward(5, 1800)]
    found = whats(written(rank0=lines + second))
    assert (
        "the probe on rank 0",
        "no error",
        "models 0 and 1 of this process both trained",
    ) in found


def on_device(lines: Lines, told: dict[int, Any]) -> Lines:
    """The same with what the device's clock told in the first forward of a step."""
    return [{**line, "device": told.get(line["step"], [])} if line["event"] == "forward" else line for line in lines]


def test_on_a_device_its_clock_counts_and_periods_end_where_it_is_known(written: Callable[..., Path]) -> None:
    (rank,) = read_records(written(rank0=on_device(run(), {2: [[1, 0.12, 0.1]], 3: [[2, 0.29, None]]}))).ranks
    assert rank.step_times_s == rank.device_step_times_s == (0.12, 0.29)
    assert rank.host_step_times_s == pytest.approx((0.1, 0.3))
    assert (rank.to_optimizer_s, rank.device_heard_s) == ((0.1, None), (1.4, 1.6))
    assert len(rank.micro_batches) == 2
    # Both boundaries that were heard of can have been passed after they were queued: at 1.1 + 0.12 and 1.1 + 0.41 s.
    assert (
        whats(written(rank0=on_device(run(), {2: [[1, 0.12, 0.1]], 3: [[2, 0.29, None]]})), replace(ASKED, periods=2))
        == []
    )


@pytest.mark.parametrize(("factor", "agrees"), [(1.0, True), (1.02, True), (1.1, False), (0.9, False), (0.1, False)])
def test_a_device_clock_that_runs_apart_from_the_hosts_is_a_difference(
    written: Callable[..., Path], factor: float, agrees: bool
) -> None:
    """The host is a step ahead, all the time: it hears of a boundary when it has queued the next."""
    steps = 51
    lines = [*run()[:2], *(forward(step, 1000 + 100 * step) for step in range(steps))]
    told = {step: [[step - 1, 0.1 * factor, 0.08]] for step in range(2, steps)}
    found = whats(written(rank0=on_device([*lines, WORK], told)), replace(ASKED, periods=49))
    assert found == (
        []
        if agrees
        else [
            (
                "duration of 49 steps by the device's clock on rank 0",
                "4.900 s, as on the host's clock",
                f"{4.9 * factor:.3f} s",
            )
        ]
    )


def test_a_host_that_queues_all_steps_at_once_hears_of_them_late_and_that_is_no_difference(
    written: Callable[..., Path],
) -> None:
    """As under CUDA graphs: 40 steps of 0.1 s are queued within 40 ms, and 10 more as the device gets on."""
    lines = [*run()[:2], *(forward(step, 1000 + step) for step in range(40))]
    lines += [forward(step, 1000 + 100 * (step - 39)) for step in range(40, 51)]
    told = {step: [[step - 39, 0.1, 0.08]] for step in range(40, 51)}
    at_exit = {"event": "device", "t": int(6.1e9), "w": HOUR_NS, "device": [[n, 0.1, 0.08] for n in range(12, 51)]}
    folder = written(rank0=[*on_device(lines, told), WORK, at_exit])
    assert read_records(folder).ranks[0].step_times_s == (0.1,) * 50
    assert whats(folder, replace(ASKED, periods=50)) == []


def test_a_suspended_machine_shows_on_the_wall_clock(written: Callable[..., Path]) -> None:
    lines = run()
    lines[-1] = forward(3, 1600, wall_ms=61_600)
    (difference,) = whats(written(rank0=lines))
    assert difference[1:] == ("0.600 s, as on the monotonic clock", "60.600 s")


@pytest.mark.parametrize(
    ("change", "what", "asked", "seen"),
    [
        ({"trainable_parameters": 99}, "trainable parameters on rank 0", "100", "99"),
        ({"trainable_parameters_with_gradient": 90}, "trainable parameters with a gradient on rank 0", "100", "90"),
        ({"recomputation": "reentrant"}, "recomputation in the backward pass on rank 0", "none", "reentrant"),
        ({"world_size": 4}, "processes that train together on rank 0", "1", "4"),
        ({"attention": {"implementation": "eager"}}, "attention on rank 0", "sdpa", "eager"),
        ({"seed": 4}, "seed on rank 0", "3", "4"),
        (
            {"optimizers": [WORK["optimizers"][0] | {"fused": False}]},
            "optimizer on rank 0",
            "AdamW in a fused kernel",
            "AdamW without a fused kernel",
        ),
        ({"compiled": True}, "use of torch.compile on rank 0", "False", "True"),
        ({"liger_kernels": ["liger_kernel.X"]}, "Liger kernels on rank 0", "none", "liger_kernel.X"),
        (
            {"parallel_wrappers": ["DataParallel"]},
            "classes around the model for parallel training on rank 0",
            "none",
            "DataParallel",
        ),
        (
            {"optimizers": [WORK["optimizers"][0] | {"steps": {"bfloat16": 100}}]},
            "dtype that the optimizer steps on rank 0",
            "float32",
            "bfloat16 and float32",
        ),
    ],
)
def test_other_work_than_asked_is_a_difference(
    written: Callable[..., Path], change: dict[str, Any], what: str, asked: str, seen: str
) -> None:
    lines = [line | change if line["event"] == "work" else line for line in run()]
    assert whats(written(rank0=lines)) == [(what, asked, seen)]


def test_another_zero_stage_than_asked_is_a_difference(written: Callable[..., Path]) -> None:
    engine = {"parallel_wrappers": ["DeepSpeedEngine"], "zero_stage": 0}
    lines = [line | engine if line["event"] == "work" else line for line in run()]
    asked = replace(ASKED, wrapper="DeepSpeedEngine", zero_stage=2)
    assert whats(written(rank0=lines), asked) == [("ZeRO stage on rank 0", "2", "0")]
    assert whats(written(rank0=lines), replace(asked, zero_stage=0)) == []


@pytest.mark.parametrize(("asked", "seen"), [("nf4", {}), ("none", {"nf4": 900}), ("nf4", {"fp4": 900})])
def test_weights_in_4_bits_that_were_not_asked_for_or_did_not_come_are_a_difference(
    written: Callable[..., Path], asked: str, seen: dict[str, int]
) -> None:
    lines = [line | {"quantized": seen} if line["event"] == "work" else line for line in run()]
    found = whats(written(rank0=lines), replace(ASKED, quantization=asked))
    assert found == [("4-bit type of frozen weights on rank 0", asked, next(iter(seen), "none"))]
    assert whats(written(rank0=lines), replace(ASKED, quantization=next(iter(seen), "none"))) == []


@pytest.mark.parametrize(("setting", "seen"), [("sgd", "SGD"), ("adafactor", "Adafactor"), ("adamw_torch", "AdamW")])
def test_the_optimizer_is_known_by_its_class(written: Callable[..., Path], setting: str, seen: str) -> None:
    optimizers = [WORK["optimizers"][0] | {"class": seen, "fused": None}]
    lines = [line | {"optimizers": optimizers} if line["event"] == "work" else line for line in run()]
    assert whats(written(rank0=lines), replace(ASKED, optimizer=setting)) == []
    ((what, asked, saw),) = whats(written(rank0=lines), replace(ASKED, optimizer="adamw_torch_fused"))
    assert (what, asked) == ("optimizer on rank 0", "AdamW in a fused kernel") and saw.startswith(seen)


def test_a_missing_parallel_wrapper_is_a_difference(written: Callable[..., Path]) -> None:
    asked = replace(ASKED, wrapper="DistributedDataParallel")
    what = "classes around the model for parallel training on rank 0"
    assert whats(written(rank0=run()), asked) == [(what, "DistributedDataParallel", "none")]


def test_what_the_probe_could_not_tell_is_no_difference(written: Callable[..., Path]) -> None:
    unknown = {"recomputation": None, "trainable_parameters_with_gradient": None}
    lines = [line | unknown if line["event"] == "work" else line for line in run()]
    assert whats(written(rank0=lines)) == []


def test_what_an_engines_copies_add_up_to_is_no_difference_and_a_missing_gradient_is(
    written: Callable[..., Path],
) -> None:
    shards = [{"class": "AdamW", "fused": True, "steps": {"float32": 50}, "state": {"float32": 100}}]
    lines = [line | {"optimizers": shards} if line["event"] == "work" else line for line in run()]
    assert [what for what, _, _ in whats(written(rank0=lines))] == [
        "trainable parameters stepped by an optimizer on rank 0"
    ]
    lines = [line | {"optimizers_step_copies": True} if line["event"] == "work" else line for line in lines]
    assert whats(written(rank0=lines)) == []
    lines = [line | {"trainable_parameters_with_gradient": 90} if line["event"] == "work" else line for line in lines]
    assert whats(written(rank0=lines)) == [("trainable parameters with a gradient on rank 0", "100", "90")]


@pytest.mark.parametrize(
    ("switches", "kernels", "found"),
    [
        ({"rope", "rms_norm"}, [], [("rms_norm, rope", "none")]),
        (set(), ["rope.liger_rotary_pos_emb"], [("none", "rope")]),
        ({"rope"}, ["rope.liger_rotary_pos_emb", "geglu.LigerGEGLUMLP"], [("rope", "rope, swiglu")]),
        (
            {"rope"},
            ["rope.liger_rotary_pos_emb", "layer_norm.LigerLayerNorm"],
            [("rope", "{}layer_norm.LigerLayerNorm, rope")],
        ),
        ({"swiglu"}, ["swiglu.LigerExperts", "swiglu.LigerSwiGLUMLP"], []),
        ({"cross_entropy", "rms_norm"}, ["functional.liger_cross_entropy", "rms_norm.LigerRMSNormForGemma4"], []),
        ({"fused_linear_cross_entropy"}, ["model.llama.lce_forward"], []),
        (None, ["rope.liger_rotary_pos_emb"], []),
    ],
)
def test_ligers_switches_are_told_by_its_kernels(
    written: Callable[..., Path], switches: set[str] | None, kernels: list[str], found: list[tuple[str, str]]
) -> None:
    package = "liger_kernel.transformers."
    work = {"liger_kernels": [package + kernel for kernel in kernels]}
    lines = [line | work if line["event"] == "work" else line for line in run()]
    asked = replace(ASKED, liger_kernels=None if switches is None else frozenset(switches))
    wanted = [("Liger kernels on rank 0", want, saw.format(package)) for want, saw in found]
    assert whats(written(rank0=lines), asked) == wanted


def test_a_sequence_that_varies_may_be_shorter_and_no_longer(written: Callable[..., Path]) -> None:
    lines = run()
    lines[2] |= {"shape": [2, 7]}
    varies = replace(ASKED, sequence_varies=True)
    assert whats(written(rank0=lines), varies) == []
    what = "[batch, sequence] of micro-batches on rank 0"
    assert whats(written(rank0=lines)) == [(what, "[2, 8]", "[2, 7] (1 times), [2, 8] (2 times)")]
    for shape in ([2, 9], [1, 8]):
        lines[2] |= {"shape": shape}
        assert whats(written(rank0=lines), varies) == [(what, "[2, 8] at most", f"{shape} (1 times), [2, 8] (2 times)")]


def test_where_the_time_went_is_told_by_the_first_forward_of_the_next_step(written: Callable[..., Path]) -> None:
    lines = run()
    told = [before(None, None), before(1080, 5, 0.1), before(1350, 15, 0.2), before(1560, 1, 0.3)]
    for step, line in enumerate(line for line in lines if line["event"] == "forward"):
        line["before"] = told[step]
    (rank,) = read_records(written(rank0=lines)).ranks
    assert rank.to_optimizer_s == pytest.approx((0.08, 0.25, 0.16))
    assert rank.data_waits_s == pytest.approx((0.005, 0.015, 0.001))
    # The last two periods, of 300 and 200 ms.
    assert asdict(step_breakdown(rank, 1, 2)) == pytest.approx(
        {
            "data_wait_s": 0.008,
            "forward_to_optimizer_s": 0.205,
            "optimizer_to_forward_s": 0.045,
            "probe_s": 0.00025,
        }
    )


def test_parts_that_are_not_known_in_every_step_are_not_told(written: Callable[..., Path]) -> None:
    lines = run()
    for step, line in enumerate(line for line in lines if line["event"] == "forward"):
        line["before"] = before(1080 if step == 1 else None, None, 0.5)
    (rank,) = read_records(written(rank0=lines)).ranks
    assert step_breakdown(rank, 0, 3) == StepBreakdown(None, None, None, 0.0005)
    assert step_breakdown(rank, 0, 1).optimizer_to_forward_s == pytest.approx(0.02)


def test_on_a_device_the_parts_are_by_its_clock_and_the_wait_for_data_by_the_hosts(
    written: Callable[..., Path],
) -> None:
    lines = on_device(run(), {2: [[1, 0.12, 0.1]], 3: [[2, 0.28, 0.2]]})
    for line in lines:
        if line["event"] == "forward":
            line["before"] = before(1080, 7)
    (rank,) = read_records(written(rank0=lines)).ranks
    assert list(asdict(step_breakdown(rank, 0, 2)).values()) == pytest.approx([0.007, 0.15, 0.05, 0.0])


def test_a_counted_step_is_read_with_the_micro_batches_that_were_in_it(written: Callable[..., Path]) -> None:
    figures = {"compiled": False, "flops": 70, "by_operator": {"aten::mm": 70}, "uncounted": {"x::y [2, 3]": 4}}
    lines = run()
    second = forward(1, 1200) | {"shape": [2, 6]}  # another micro-batch of the second step
    of_step_1 = next(n for n, line in enumerate(lines) if line["event"] == "forward" and line["step"] == 1)
    lines.insert(of_step_1 + 1, second)
    (counted,) = read_records(written(rank0=[*lines, {"event": "flops", "root": 0, "step": 1, **figures}])).ranks
    assert counted.step_flops == StepFlops(
        70, {"aten::mm": 70}, {"x::y [2, 3]": 4}, (MicroBatch(2, 8, 12, 9), MicroBatch(2, 6, 12, 9))
    )
    (uncounted,) = read_records(written(rank0=run())).ranks
    assert uncounted.step_flops is None


def test_too_few_periods_are_a_difference(written: Callable[..., Path]) -> None:
    assert whats(written(rank0=run()), replace(ASKED, periods=5)) == [("step periods on rank 0", "5", "3")]


def test_another_shape_or_number_of_micro_batches_is_a_difference(written: Callable[..., Path]) -> None:
    lines = run()
    lines.insert(3, forward(0, 1050, shape=[2, 7]))
    assert whats(written(rank0=lines)) == [
        ("micro-batches per optimizer step on rank 0", "1", "2 (1 times), 1 (2 times)"),
        ("[batch, sequence] of micro-batches on rank 0", "[2, 8]", "[2, 8] (3 times), [2, 7] (1 times)"),
    ]
    # Only the periods that are asked for count.
    lines = [*run(), forward(3, 1700, shape=[1, 8]), optimizer(3, 1750), forward(4, 1800)]
    assert whats(written(rank0=lines)) == []


@pytest.mark.parametrize(
    ("files", "num_ranks", "asked", "seen"),
    [
        ({"rank0": run(0)}, 2, "0, 1", "0"),
        ({"rank0": run(0), "rank1": run(1)}, 1, "0", "0, 1"),
        ({"rank0": run(0, 7), "rank0__8": run(0, 8)}, 2, "0, 1", "0 (2 processes)"),
        ({"rank1": run(1), "rank2": run(2)}, 2, "0, 1", "1, 2"),
    ],
)
def test_every_rank_must_have_trained_once(
    written: Callable[..., Path], files: dict[str, Lines], num_ranks: int, asked: str, seen: str
) -> None:
    found = whats(written(**files), replace(ASKED, num_ranks=num_ranks))
    assert ("ranks that trained", asked, seen) in found


def test_errors_of_the_probe_are_differences_wherever_they_happened(written: Callable[..., Path]) -> None:
    error = {"event": "probe_error", "error": "ZeroDivisionError\n", "pid": 7}
    assert whats(written(rank0=[*run(), error], errors__9=[error])) == [
        ("the probe before any training", "no error", "ZeroDivisionError"),
        ("the probe on rank 0", "no error", "ZeroDivisionError"),
    ]


def test_a_follower_sees_what_is_appended_and_never_half_a_line(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "records")
    assert follower.poll() == {}
    (tmp_path / "records").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in run())
    seen: list[int] = []
    for end in range(0, len(text) + 50, 50):
        (tmp_path / "records" / "rank0.jsonl").write_text(text[:end])
        seen.append(follower.poll()["rank0"].periods)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}
    assert follower.poll()["rank0"].step_times_s == pytest.approx([0.1, 0.3, 0.2])


def test_a_follower_counts_the_periods_that_reading_counts(written: Callable[..., Path]) -> None:
    folder = written(rank0=run(0), rank1=run(1)[:-1])
    progress = Follower(folder).poll()
    assert {name: rank.periods for name, rank in progress.items()} == {"rank0": 3, "rank1": 2}
    assert [len(rank.step_times_s) for rank in read_records(folder).ranks] == [3, 2]


def boundary(step: int, at_ms: float, batches: list[Any], **more: Any) -> dict[str, Any]:
    """The start of an optimizer that steps again, and the batches loaded in the step before."""
    line = forward(step, at_ms, **more)
    del line["shape"], line["real"], line["trained"]
    return line | {"event": "boundary", "batches": batches}


BATCH = [[2, 8], [12, 9, 8, None]]


def test_of_two_kinds_of_boundaries_the_longer_series_is_measured_and_the_period_between_is_dropped(
    written: Callable[..., Path],
) -> None:
    hidden = [boundary(step, at, [BATCH]) for step, at in ((4, 2000), (5, 2150), (6, 2300), (7, 2450))]
    (record,) = read_records(written(rank0=[*run(), *hidden])).ranks
    assert record.boundary == "forward"  # four boundaries of each kind: the first
    assert record.step_times_s == pytest.approx((0.1, 0.3, 0.2))
    (record,) = read_records(written(rank0=[*run(), *hidden, boundary(8, 2600, [BATCH]), forward(9, 2700)])).ranks
    assert record.boundary == "optimizer"
    assert record.step_times_s == pytest.approx((0.15,) * 4)
    assert record.micro_batches == ((MicroBatch(2, 8, 12, 9),),) * 4
    assert record.to_optimizer_s == (None,) * 4


def test_steps_by_the_optimizer_whose_batches_are_unknown_are_a_difference(written: Callable[..., Path]) -> None:
    hidden = [boundary(step, 2000 + 150 * step, []) for step in range(4, 9)]
    assert whats(written(rank0=[*run(), *hidden]))[-1] == (
        "micro-batches per optimizer step on rank 0",
        "1",
        "neither forwards of the model nor batches of a torch DataLoader, so the work of a step is unknown",
    )


def test_steps_by_the_optimizer_are_timed_by_the_devices_clock_if_it_has_one(written: Callable[..., Path]) -> None:
    hidden = [boundary(step, 2000 + step, [BATCH], device=[[step, 0.5, None]]) for step in range(4, 9)]
    (record,) = read_records(written(rank0=[*run(), *hidden])).ranks
    assert record.boundary == "optimizer"
    assert record.step_times_s == (0.5,) * 4
