"""Evidence of a run → its Result: everything a reader needs to trust a figure or to repeat it, in one file."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import mfubench
from mfubench.config import Experiment
from mfubench.files.paths import ROOT
from mfubench.flops.crosscheck import second_count_in_words
from mfubench.launch.start import commit_of
from mfubench.measure.evidence import Evidence
from mfubench.measure.metrics import CONVENTIONS
from mfubench.measure.run_warnings import Caveat
from mfubench.plan.engines import label
from mfubench.plan.native import plan_as_json
from mfubench.records import RankRecord
from mfubench.result import Result

OWN_PACKAGES = ("torch", "transformers", "peft", "hydra-core", "omegaconf", "scipy")  # what the counting ran with


def run_name(experiment: Experiment, engine: str | None) -> str:
    """framework[-engine]-model-mode-parallelism-checkpointing-bs: what a run is called in tables and in W&B.

    `defaults` is in the place of the checkpointing where that was left to the framework.
    """
    framework = experiment.framework.name
    parts = (
        framework if engine in (None, framework) else f"{framework}-{engine}",
        experiment.model.name,
        experiment.mode.name,
        experiment.parallelism.name,
        experiment.gradient_checkpointing.name if experiment.comparison == "equal" else "defaults",
        f"bs{experiment.batch_size}",
    )
    return "-".join(parts)


def conclude(evidence: Evidence, warnings: Sequence[Caveat]) -> Result:
    """The Result: only `ok` has a measurement, the figures of others are withheld."""
    verdict = evidence.verdict
    assert verdict is not None
    figures = None if evidence.measurement is None else asdict(evidence.measurement)
    ok = verdict.status == "ok"
    measured_rank = evidence.measurement.rank if evidence.measurement else 0
    return Result(
        name=run_name(evidence.experiment, evidence.engine),
        framework=label(evidence.experiment.framework.name, evidence.engine),
        engine=evidence.engine,
        status=verdict.status,
        reason=verdict.reason,
        stopped_by=verdict.stopped_by,
        group=evidence.group,
        started_at=evidence.started_at.isoformat(timespec="seconds"),
        settings=_spelled_out(asdict(evidence.experiment)),
        hardware=_hardware(evidence),
        flops=_flops(evidence),
        work=next((_work(r) for r in evidence.records.ranks if r.rank == measured_rank), None),
        differences=[asdict(difference) for difference in evidence.differences],
        measurement=figures if ok else None,
        withheld=None if ok else figures,
        step_times_s={str(r.rank): list(r.step_times_s) for r in evidence.records.ranks},
        history=list(evidence.history) if ok else [],
        conditions=_conditions(evidence),
        warnings=[asdict(warning) for warning in warnings],
        conventions=CONVENTIONS,
        plan=None if evidence.plan is None else plan_as_json(evidence.plan),
        outcome=None if evidence.outcome is None else asdict(evidence.outcome),
        provenance=_provenance(evidence),
    )


def _spelled_out(settings: Any) -> Any:
    """JSON has no infinity, and the user may have said it to the framework."""
    if isinstance(settings, dict):
        return {key: _spelled_out(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_spelled_out(value) for value in settings]
    return str(settings) if isinstance(settings, float) and not math.isfinite(settings) else settings


def _work(rank: RankRecord) -> dict[str, Any]:
    """What the probe saw, and the positions of the first step."""
    first = rank.micro_batches[0] if rank.micro_batches else ()
    return {**rank.work, "positions_per_step": sum(batch.batch_size * batch.sequence_length for batch in first)}


def _hardware(evidence: Evidence) -> dict[str, Any] | None:
    if evidence.machine is None:
        return None
    peak, ceiling = evidence.peak, evidence.ceiling
    return {
        **asdict(evidence.machine),
        "precision": evidence.precision,
        "peak_flops_per_second": None if peak is None else peak.flops_per_second,
        "peak_dtype": None if peak is None else peak.dtype,
        "peak_source": None if peak is None else peak.source,
        "peak_measured": None if peak is None else peak.measured,
        "ceiling_flops_per_second": None if ceiling is None else ceiling.flops_per_second,
        "ceiling_source": None if ceiling is None else ceiling.source,
    }


def _conditions(evidence: Evidence) -> list[dict[str, Any]]:
    """What the watched devices were like."""
    device = None if evidence.machine is None else evidence.machine.device
    return [{"device": device, **asdict(each)} for each in evidence.conditions]


def _flops(evidence: Evidence) -> dict[str, Any] | None:
    """Per optimizer step and device; the figures in the words of the published reports beside them, and the other counts."""
    flops, second, in_situ = evidence.flops, evidence.second_count, evidence.in_situ
    if flops is None:
        return None
    in_situ_flops = None if in_situ is None else in_situ.flops
    return {
        **asdict(flops),
        "profiled_tflop_per_step": flops.hardware_flops / 1e12,
        "model_tflop_per_step": flops.model_flops / 1e12,
        "profiled_in_situ_tflop_per_step": None if in_situ_flops is None else in_situ_flops / 1e12,
        "in_situ": None if in_situ is None else asdict(in_situ),
        "second_count": None if second is None else {**asdict(second.figures), "apart": second.apart},
        "second_count_in_words": second_count_in_words(evidence.experiment, second),
    }


def _data(evidence: Evidence) -> dict[str, Any] | None:
    """What was trained on: where real samples are from, how many there are, how many were read."""
    if evidence.workload is None:
        return None
    return {
        "name": evidence.experiment.data.name,
        "source": evidence.workload.data_source,
        "num_rows": evidence.workload.num_rows,
        "num_samples": evidence.workload.num_samples,
    }


def _provenance(evidence: Evidence) -> dict[str, Any]:
    framework_versions: Mapping[str, str] = next((r.versions for r in evidence.records.ranks), {})
    return {
        "mfubench": mfubench.__version__,
        "commit": commit_of(ROOT),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "counted_with": {name: version(name) for name in OWN_PACKAGES},
        "framework_environment": dict(framework_versions),
        "folder": str(evidence.folder),
        "data": _data(evidence),
    }
