"""What a reader is told beside valid figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from mfubench.config import Experiment
from mfubench.flops.counts import FlopCount
from mfubench.hardware.conditions import GpuConditions
from mfubench.hardware.machine import Machine
from mfubench.hardware.monitor import start_monitor
from mfubench.hardware.peaks import Ceiling, Peak, Peaks
from mfubench.launch.outcome import Outcome
from mfubench.measure.figures import InSitu, Kind
from mfubench.measure.measure import Measured
from mfubench.measure.metrics import measurement_of, of_ceiling
from mfubench.measure.observe import Observed
from mfubench.measure.run_warnings import run_warnings
from mfubench.measure.status import RunStatus, Wanted
from mfubench.plan.native import Place, make_plan
from mfubench.plan.prepare import Prepared, Target
from mfubench.records.reading import MicroBatch, RankRecord, Records
from mfubench.workload import Workload

FLOPS = FlopCount(10**12, 10**12, 10**12, 10**12, 12_000_000, 12_000_000, {})
GPU = Machine("cuda", "NVIDIA H100 80GB HBM3", 1, 16, True, "580", 80 * 2**30)
CPU = Machine("cpu", "Some CPU", 2, 2, True, None, None)
WORKLOAD = Workload("/w/model", "/w/tokenizer", "/w/messages.jsonl", "/w/alpaca.jsonl", 74, None)
PLACE = Place(Path("/run"), Path("/p/launchers"), Path("/p"), "/usr/bin/python3", "cpu", "bf16", 2)
SHEET = Peak(100e12, "bf16", "a data sheet", measured=False)


def record_of(times: list[float]) -> RankRecord:
    at = tuple(sum(times[:n]) for n in range(len(times) + 1))
    steps = tuple((MicroBatch(2, 256, None, None),) for _ in times)
    return RankRecord(0, 1, at, at, None, steps, None, None, {"recomputation": None}, {}, ())


@pytest.fixture
def said(compose: Callable[..., Experiment]) -> Callable[..., list[str]]:
    """The caveats of a steady run on a GPU, with what is changed."""

    def of(
        *overrides: str,
        times: tuple[float, ...] = (1.0, 1.001) * 10,
        peak: Peak = SHEET,
        ceiling_here: Ceiling | None = None,
        because: str | None = None,
        **changes: Any,
    ) -> list[str]:
        experiment = compose(*overrides)
        records = Records((record_of(list(times)),))
        measurement = measurement_of(records, lambda *_: FLOPS, peak, 0, len(times))
        ceiling = Ceiling(peak.flops_per_second, peak.source) if peak.measured else ceiling_here
        measurement = replace(measurement, of_ceiling=of_ceiling(measurement, peak, ceiling), stopped_because=because)
        stage = {
            "machine": GPU,
            "flops": replace(FLOPS, parameters=8_000_000_000),
            "outcome": Outcome("itself", 0, 9.0, ()),
            "measurement": measurement,
            "in_situ": None,
            "conditions": (),
            "verdict": RunStatus("ok"),
        } | changes
        target = Target(experiment, stage["machine"], "bf16", None)
        plan = make_plan(experiment, WORKLOAD, PLACE)
        prepared = Prepared(target, WORKLOAD, stage["flops"], None, plan)
        observed = Observed(stage["outcome"], records, start_monitor(CPU, 1))
        steps, stages = len(times), (stage["measurement"], stage["flops"], stage["in_situ"], [], ())
        measured = Measured(*stages, stage["conditions"], steps, Wanted(steps, "steps"))
        peaks = Peaks(peak, ceiling)
        found = list(run_warnings(experiment, stage["verdict"], target, prepared, peaks, observed, measured))
        assert all(each.kind in get_args(Kind) for each in found)
        return [each.text for each in found]

    return of


def test_a_steady_run_of_a_real_model_has_none(said: Callable[..., list[str]]) -> None:
    assert said() == []


def test_a_tiny_model_on_a_gpu_names_a_real_one(said: Callable[..., list[str]]) -> None:
    (caveat,) = said(flops=FLOPS)
    assert "its MFU means nothing there" in caveat and "python -m mfubench model=llama-3.1-8b" in caveat
    assert said(flops=FLOPS, machine=replace(GPU, device="cpu")) == []


def test_a_mean_less_sure_than_asked_for_says_how_sure_it_is(said: Callable[..., list[str]]) -> None:
    unsure = (1.0, 3.0) * 10
    (caveat,) = said(times=unsure)
    # Student's t of 19 degrees of freedom, 2.0930, times a standard deviation of 1.02598 / 20 ** 0.5, over the mean of 2
    assert caveat.startswith(
        "the mean step time is known to ±24.01%, not to the ±1.00% asked for, after 20 steady steps"
    )
    (caveat,) = said("measurement.relative_precision=null", times=unsure)
    assert caveat.startswith("the mean step time is only known to ±24%")
    assert said("measurement.relative_precision=0.25", times=unsure) == []


def test_too_few_steps_have_no_interval_and_say_so(said: Callable[..., list[str]]) -> None:
    (caveat,) = said("measurement=quick", times=(1.0, 1.001) * 4)
    assert caveat.startswith("8 steps: no interval, which takes 20")


def test_a_step_time_that_drifts_is_not_steady(said: Callable[..., list[str]]) -> None:
    drifting = tuple(1.0 + 0.002 * step + 0.001 * (step % 2) for step in range(40))
    caveat = next(each for each in said(times=drifting) if each.startswith("not steady"))
    # 24 times 2 ms between steps 16 and 40, over their mean of 1.0545 s
    assert "from there the step time drifts by +4.6%" in caveat and caveat.endswith("; the mean is of steps 16 to 40")
    assert "went on" not in caveat
    caveat = next(each for each in said(times=drifting, because="steps") if each.startswith("not steady"))
    assert "drifts by +4.6%, so the run went on to the maximum of 200 steps; " in caveat
    faster = next(each for each in said(times=drifting[::-1], because="time") if each.startswith("not steady"))
    assert "drifts by −4.7%, so the run went on to the maximum of 60 s; " in faster  # their mean is 1.0245 s


def test_beating_a_measured_peak_is_said(said: Callable[..., list[str]]) -> None:
    (caveat,) = said(peak=Peak(0.9e12, "fp32", "measured", measured=True))
    assert "1.11 times the FLOP/s that were measured" in caveat and "utilisations are too high" in caveat
    (caveat,) = said(ceiling_here=Ceiling(0.9e12, "measured"))
    assert "of_ceiling is too high" in caveat


def test_what_the_machine_did_explains_a_run_that_failed(said: Callable[..., list[str]]) -> None:
    quiet = GpuConditions("GPU-1", 0, None, None, None, None, None, None, None, None, (), 0, 0, 0, ())
    hot, dying = replace(quiet, throttled={"hardware thermal slowdown": 0.9}), replace(quiet, xids=(79,))
    (caveat,) = said(conditions=(hot, dying), measurement=None, verdict=RunStatus("failed", "it died"))
    assert "Xid 79" in caveat
    assert len(said(conditions=(hot, dying))) == 2
    assert said(conditions=(quiet,)) == []


def test_a_setting_of_another_mode_changes_nothing(said: Callable[..., list[str]]) -> None:
    assert said("mode=full", "mode.rank=4") == ["mode.rank=4 changes nothing with mode=full"]


def test_an_exit_status_after_all_steps_is_noted(said: Callable[..., list[str]]) -> None:
    (caveat,) = said(outcome=Outcome("itself", 1, 9.0, ()))
    assert "exit status 1 after all measured steps" in caveat


def test_a_run_cut_short_by_the_user_says_how_short(said: Callable[..., list[str]]) -> None:
    assert said(verdict=RunStatus("ok", None, "user")) == ["ended by the user after 20 steady steps of at most 200"]


def test_recomputation_that_a_compiled_model_hides_is_said(said: Callable[..., list[str]]) -> None:
    (caveat,) = said("gradient_checkpointing=reentrant", "torch_compile=true")
    assert "hides what it recomputes" in caveat


COUNTED = InSitu(1.3e12, 1e12, 0.3, {"aten::mm": 1.3e12}, {"x::y [2, 3] x [3, 4]": 2}, "it recomputes")
PROFILED = "measurement.profile_flops=true"


def test_another_count_in_the_frameworks_process_is_said_with_what_explains_it(said: Callable[..., list[str]]) -> None:
    (caveat,) = said(PROFILED, in_situ=COUNTED)
    assert "did 1.3 TFLOP, +30.0% from the 1 TFLOP that hfu takes it to do: it recomputes; " in caveat
    assert caveat.endswith("no formula counts x::y [2, 3] x [3, 4] ×2")
    (caveat,) = said(PROFILED, in_situ=replace(COUNTED, explanation=None, uncounted={}))
    assert caveat.endswith("nothing known explains it; in_situ in result.json has its operators")
    assert said(PROFILED, in_situ=replace(COUNTED, apart=0.009)) == []


def test_no_count_in_the_frameworks_process_is_said_where_one_was_asked_for(said: Callable[..., list[str]]) -> None:
    (caveat,) = said(PROFILED, in_situ=replace(COUNTED, flops=None, apart=None))
    assert "torch.compile hides what it does" in caveat
    (caveat,) = said(PROFILED)
    assert caveat.startswith("no step was counted")
    assert said() == []
