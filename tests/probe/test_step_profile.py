"""The profile of a few steps, in real processes: what it finds of parts of known length, and what disturbs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mfubench.explain.difference import difference
from mfubench.explain.exclusive import by_category, exclusive
from mfubench.explain.timeline import NoProfile, Timeline, timeline
from mfubench.explain.waterfall import StepTime, step_time
from mfubench.records.reading import read_records

FIRST, STEPS = 3, 3
LONG = ("--sleep", 0.15, "--matmuls", 12, "--copies", 12)
SHORT = ("--sleep", 0.02, "--matmuls", 2, "--copies", 2)  # less than a busy machine can add to what is to be found


@dataclass(frozen=True)
class Profiled:
    """A run of a trainer that was asked for a profile."""

    records: Path
    done: Any

    def content(self, rank: int = 0) -> dict[str, Any]:
        """What a rank wrote."""
        return json.loads((self.records / f"profile.rank{rank}.json").read_text())

    @property
    def timeline(self) -> Timeline:
        """Rank 0's."""
        return timeline(self.content(), "cpu")

    @property
    def seconds(self) -> dict[str, float]:
        """Exclusive seconds of the mean profiled step."""
        lines = self.timeline
        kinds = exclusive(lines.spans, lines.start, lines.end).kinds
        return {name: time / lines.steps / 1e9 for name, time in by_category(kinds).items()}


@pytest.fixture(scope="module")
def profiled(run: Callable, trainers: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Profiled]:
    """Runs a trainer with its options, and asks it for a profile."""

    def start(*argv: object, first: int = FIRST, trace: bool = False, launcher: tuple[object, ...] = ()) -> Profiled:
        records = tmp_path_factory.mktemp("records")
        request = {"first": first, "steps": STEPS, "keep_trace": trace}
        (records / "profile.json").write_text(json.dumps(request))
        name, *options = argv or ("parts.py",)
        return Profiled(records, run(*launcher, trainers / str(name), *options, records=records))

    return start


@pytest.fixture(scope="module")
def parts(profiled: Callable[..., Profiled], tmp_path_factory: pytest.TempPathFactory) -> tuple[Profiled, list[Any]]:
    """A run with parts of known length, and their seconds by its own clock, of the profiled steps."""
    stopwatch = tmp_path_factory.mktemp("clock") / "parts.json"
    made = profiled("parts.py", *LONG, "--stopwatch", stopwatch, trace=True)
    assert made.done.returncode == 0, made.done.stderr
    return made, json.loads(stopwatch.read_text())[FIRST : FIRST + STEPS]


@pytest.mark.parametrize(("part", "category"), [("sleep", "idle"), ("matmul", "matmul"), ("copy", "copy")])
def test_a_known_part_of_the_step_is_found(parts: tuple[Profiled, list[Any]], part: str, category: str) -> None:
    known = sum(step[part] for step in parts[1]) / STEPS
    assert parts[0].seconds[category] == pytest.approx(known, rel=0.05, abs=0.003)


def test_the_sleep_is_the_widest_gap_of_each_step_and_the_host_is_in_no_operator(
    parts: tuple[Profiled, list[Any]],
) -> None:
    gaps = parts[0].timeline.gaps
    assert sorted(gap.seconds for gap in gaps[:STEPS]) == pytest.approx(
        sorted(step["sleep"] for step in parts[1]), rel=0.05
    )
    assert {gap.host for gap in gaps[:STEPS]} == {""}


def test_calls_are_counted(parts: tuple[Profiled, list[Any]]) -> None:
    calls = {kind.name: count for kind, count in parts[0].timeline.calls.items()}
    assert calls["aten::mm"] >= 12 * STEPS and calls["aten::embedding"] == STEPS


def test_the_shapes_are_those_of_the_profiled_steps(parts: tuple[Profiled, list[Any]]) -> None:
    assert parts[0].content()["shapes"] == [[2, 16]] * STEPS


def test_steps_under_the_profiler_are_none_that_was_measured(parts: tuple[Profiled, list[Any]]) -> None:
    (rank,) = read_records(parts[0].records).ranks
    assert len(rank.step_times_s) == FIRST - 1  # the profiler starts a step early


def test_the_trace_is_kept_if_asked_for(parts: tuple[Profiled, list[Any]], profiled: Callable[..., Profiled]) -> None:
    trace = json.loads((parts[0].records / "trace.rank0.json").read_text())
    assert {"aten::mm", "aten::copy_"} <= {event.get("name") for event in trace["traceEvents"]}


@pytest.fixture(scope="module")
def short(profiled: Callable[..., Profiled]) -> Profiled:
    """A run whose parts take little time."""
    return profiled("parts.py", *SHORT)


@pytest.mark.parametrize(
    ("more", "category"),
    [pytest.param(("--sleep", 0.5), "idle", id="sleep"), pytest.param(("--matmuls", 60), "matmul", id="matmul")],
)
def test_the_difference_of_two_trainers_is_found_and_only_there(
    short: Profiled, profiled: Callable[..., Profiled], more: tuple[object, ...], category: str
) -> None:
    times = []
    for made in (profiled("parts.py", *SHORT, *more), short):
        lines = made.timeline
        times.append([_as_measured(lines)])
    found = difference(*times, basis="single")
    changed = found.categories[category].seconds
    assert changed > 0.15 and found.seconds == pytest.approx(sum(c.seconds for c in found.categories.values()))
    assert all(abs(change.seconds) < 0.3 * changed for name, change in found.categories.items() if name != category)


def _as_measured(lines: Timeline) -> StepTime:
    """The profiled step as if it were the measured one."""
    mean = (lines.end - lines.start) / lines.steps / 1e9
    return step_time(exclusive(lines.spans, lines.start, lines.end), lines.steps, mean, "cpu")


def test_two_ranks_profile_the_same_steps_and_communication_is_seen(profiled: Callable[..., Profiled]) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    made = profiled("parts.py", "--ddp", "--sleep", 0.05, launcher=torchrun)
    assert made.done.returncode == 0, made.done.stderr
    for rank in (0, 1):
        content = made.content(rank)
        assert len(content["boundaries"]) == STEPS + 1 and content["shapes"] == [[2, 16]] * STEPS
        assert by_category(_kinds(content))["communication"] > 0


def _kinds(content: dict[str, Any]) -> Any:
    lines = timeline(content, "cpu")
    return exclusive(lines.spans, lines.start, lines.end).kinds


@pytest.mark.parametrize(
    ("options", "first", "reason"),
    [
        pytest.param(("--disturbance", "own profiler"), FIRST, "the framework's own profiler is on", id="on"),
        pytest.param(("--disturbance", "own profiler later"), FIRST, "own profiler took over", id="later"),
        pytest.param(("--steps", 4), FIRST, "training ended before it was whole", id="within"),
        pytest.param(("--steps", 4), 9, "training ended before it was whole", id="before"),
        pytest.param((), 0, "step 0 had begun when it was to begin with step 0", id="late"),
    ],
)
def test_a_profile_that_cannot_be_says_why_and_training_goes_on(
    profiled: Callable[..., Profiled], options: tuple[object, ...], first: int, reason: str
) -> None:
    made = profiled("parts.py", *options, first=first)
    assert made.done.returncode == 0, made.done.stderr
    with pytest.raises(NoProfile, match=reason):
        timeline(made.content(), "cpu")


def test_what_was_recorded_before_a_crash_in_the_profile_is_whole(profiled: Callable[..., Profiled]) -> None:
    made = profiled("parts.py", "--disturbance", "abort")
    assert made.done.returncode == -6 and not list(made.records.glob("profile.rank*"))
    (rank,) = read_records(made.records).ranks
    assert len(rank.step_times_s) == FIRST - 1


def test_matmuls_by_name_are_those_of_matmul_operators(profiled: Callable[..., Profiled]) -> None:
    made = profiled("llama.py", "--steps", 6, "--width", 512, first=1)
    content = made.content()
    names, host = content["names"], content["host"]
    rows = list(zip(*(host[column] for column in ("name", "start", "duration")), strict=True))
    products = ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear")
    whole = total = until = 0
    for number, start, duration in sorted(rows, key=lambda row: (row[1], -row[2])):
        if names[number] in products and start >= until and start < content["boundaries"][-1]:
            total, until = total + duration, start + duration
            whole += 1
    assert whole > 0
    # What a product does besides, views and dispatch, isn't matmul; on a busy machine it takes longer.
    assert 0.85 < made.seconds["matmul"] * STEPS * 1e9 / total < 1.0001
