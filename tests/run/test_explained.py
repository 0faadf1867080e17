"""A run whose step time is explained, for real, and runs whose profile comes to nothing: their results are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from architectures import SMALLER
from rich.console import Console

from mfubench.config import Experiment
from mfubench.measure import profile_request
from mfubench.result import Result
from mfubench.result.result_file import read_result
from mfubench.run import run

TRAINER = Path(__file__).parents[1] / "trainers" / "disturbed.py"
MEASURED = ("measurement.warmup_steps=2", "measurement.steps=6", "measurement.minimum_steps=6")
SETTINGS = (
    *SMALLER,
    *MEASURED,
    "measurement=quick",
    "measurement.profile_steps=2",
    "tracking=none",
    "hardware=cpu",
    "hardware.peak_flops_per_second=1e12",
)


@pytest.fixture(scope="module")
def explained(compose: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """The result of a run with these overrides, as it was written; its trainer is disturbed, or None: the framework's own."""

    def of(*overrides: str, disturbance: str | None = "none") -> Result:
        folder = tmp_path_factory.mktemp("run")
        command = f"framework.command=['${{run.python}}','{TRAINER}','${{run.config_path}}','{disturbance}']"
        experiment = compose(*SETTINGS, *overrides, *([command] if disturbance else ()))
        run(experiment, folder, None, {}, Console(quiet=True))
        return read_result(folder / "result.json")

    return of


@pytest.fixture(scope="module")
def plain(explained: Callable[..., Result]) -> Result:
    """A run that nothing disturbs."""
    return explained("measurement.keep_trace=true")


def test_a_run_is_explained(plain: Result) -> None:
    assert (plain.status, plain.no_explanation) == ("ok", None)
    found, measured = plain.explanation, plain.measurement
    assert found is not None and measured is not None and found.steps == 2
    assert sum(found.categories_s.values()) == pytest.approx(measured.step_time_s)
    assert {"matmul", "attention", "optimizer", "loss", "elementwise", "idle"} <= found.categories_s.keys()
    assert found.kernels[0].seconds >= found.kernels[-1].seconds > 0 and len(found.gaps) == 5
    assert found.cost_s > 2 * found.profiled_step_s


def test_the_waterfall_ends_at_the_results_own_figures(plain: Result) -> None:
    assert plain.explanation is not None and plain.measurement is not None
    found = plain.explanation.waterfall
    assert found is not None, plain.explanation.no_waterfall
    assert found.hfu_causal == pytest.approx(plain.measurement.hfu_causal, rel=1e-9)
    assert found.mfu_causal == pytest.approx(plain.measurement.mfu_causal, rel=1e-9)
    assert found.needed["recomputation"] == 0  # nothing is checkpointed
    assert all(term >= 0 for term in {**found.executed, **found.needed}.values())


def test_the_profile_is_none_of_the_measured_steps(plain: Result) -> None:
    assert plain.measurement is not None and plain.plan is not None and plain.stopped_by == "mfubench"
    assert plain.measurement.steps == 6 and len(plain.step_times_s["0"]) == 8
    assert plain.plan.max_steps == 8 + 2 + 2 + 3


def test_the_trace_lies_in_the_run_folder_and_raw_events_nowhere(plain: Result) -> None:
    folder = Path(plain.provenance.folder)
    assert '"traceEvents"' in (folder / "trace.json").read_text()
    assert [path.name for path in (folder / "records").iterdir()] == ["rank0.jsonl"]


def test_recomputation_is_what_checkpointing_adds_to_the_flops(explained: Callable[..., Result], plain: Result) -> None:
    found = explained("gradient_checkpointing=non_reentrant")
    assert found.explanation is not None and found.measurement is not None and found.hardware is not None
    assert found.explanation.waterfall is not None and found.flops is not None and plain.flops is not None
    possible = (found.hardware.peak_flops_per_second or 0) * found.measurement.step_time_s
    again = found.flops.hardware_flops_causal - plain.flops.hardware_flops_causal
    assert found.explanation.waterfall.needed["recomputation"] == pytest.approx(again / possible)


@pytest.mark.parametrize(
    ("disturbance", "reason"),
    [
        ("crash", "rank 0 wrote no profile: the framework ended: SIGABRT"),
        ("hang", "rank 0 wrote no profile: the time for it was over"),
        ("full", "MemoryError"),
        ("ends before", "training ended before it was whole"),
    ],
)
def test_whatever_becomes_of_the_profile_the_result_is_whole(
    explained: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, disturbance: str, reason: str
) -> None:
    monkeypatch.setattr(profile_request, "DEADLINE_S", 5.0)
    found = explained(disturbance=disturbance)
    assert (found.status, found.explanation) == ("ok", None)
    assert found.measurement is not None and found.measurement.steps == 6
    assert found.no_explanation is not None and reason in found.no_explanation


def test_nothing_is_said_of_a_profile_that_was_not_asked_for(explained: Callable[..., Result]) -> None:
    found = explained("measurement.profile_steps=0")
    assert (found.status, found.explanation, found.no_explanation) == ("ok", None, None)


@pytest.mark.slow
def test_eager_attention_is_softmax_and_its_products_are_matmuls(explained: Callable[..., Result]) -> None:
    settings = ("mode=lora", "attention=eager", "gradient_checkpointing=reentrant", "optimizer=adamw_torch")
    found = explained(*settings, disturbance=None).explanation
    assert found is not None and found.waterfall is not None
    step = sum(found.categories_s.values())
    assert found.waterfall.executed["attention"] == pytest.approx(found.categories_s["attention"] / step)
    assert 0 < found.waterfall.needed["recomputation"] < found.waterfall.hfu_causal / 2
    assert found.waterfall.needed["other executed work"] > 0  # the masked half, which eager attention computes


@pytest.mark.slow
def test_code_that_torch_compile_generated_is_explained(explained: Callable[..., Result]) -> None:
    found = explained("torch_compile=true", "measurement.warmup_steps=3", disturbance=None).explanation
    assert found is not None and any("torch.compile" in note for note in found.notes)
    kernels = {kernel.name: kernel.category for kernel in found.kernels}
    assert kernels["## Call CompiledFxGraph"] == "elementwise" and kernels["aten::mm"] == "matmul"
    assert found.categories_s["other"] < 0.1 * sum(found.categories_s.values())


@pytest.mark.slow
def test_communication_of_two_ranks_is_explained(explained: Callable[..., Result]) -> None:
    found = explained("parallelism=ddp", "parallelism.num_devices=2", disturbance=None)
    assert found.explanation is not None, found.no_explanation
    assert found.explanation.categories_s["communication"] > 0
