"""Build the Result of a run: everything a reader needs to trust a figure or to repeat it, in one file."""

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
from mfubench.config.vocabulary import packages
from mfubench.files import secrets
from mfubench.flops.crosscheck import second_count_in_words
from mfubench.hardware import Peaks
from mfubench.measure.measure import Measured
from mfubench.measure.metric_table import CONVENTIONS
from mfubench.measure.observe import Observed
from mfubench.measure.run_warnings import run_warnings
from mfubench.measure.status import RunStatus
from mfubench.plan.engines import label
from mfubench.plan.native import plan_as_json
from mfubench.plan.prepare import Prepared, Target
from mfubench.records import RankRecord
from mfubench.result.job import Job
from mfubench.result.result_file import Result


def run_name(experiment: Experiment, engine: str | None) -> str:
    """Return framework[-engine]-model-mode-parallelism-checkpointing-bs, the run's name in tables and in W&B.

    With comparison=defaults, `defaults` replaces the checkpointing, which is left to the framework.
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


def build(
    job: Job,
    status: RunStatus,
    target: Target | None,
    prepared: Prepared | None,
    peaks: Peaks | None,
    observed: Observed | None,
    measured: Measured | None,
) -> Result:
    """Build the Result; a stage that wasn't reached is None. Only `ok` has a measurement, other figures are withheld."""
    experiment = target.experiment if target else job.experiment
    engine = target.engine if target else None
    measurement = measured.measurement if measured else None
    figures = None if measurement is None else asdict(measurement)
    ok = status.status == "ok"
    ranks = observed.records.ranks if observed else ()
    measured_rank = measurement.rank if measurement else 0
    warnings = run_warnings(experiment, status, target, prepared, peaks, observed, measured)
    fields = {
        "name": run_name(experiment, engine),
        "framework": label(experiment.framework.name, engine),
        "engine": engine,
        "status": status.status,
        "reason": status.reason,
        "stopped_by": status.stopped_by,
        "group": job.group,
        "started_at": job.started_at.isoformat(timespec="seconds"),
        "settings": _spelled_out(asdict(experiment)),
        "hardware": None if target is None else _hardware_fields(target, peaks),
        "flops": None if prepared is None else _flops_fields(prepared, measured),
        "work": next((_work_fields(rank) for rank in ranks if rank.rank == measured_rank), None),
        "differences": [asdict(difference) for difference in measured.differences] if measured else [],
        "measurement": figures if ok else None,
        "withheld": None if ok else figures,
        "step_times_s": {str(rank.rank): list(rank.step_times_s) for rank in ranks},
        "history": list(measured.history) if measured and ok else [],
        "conditions": _condition_fields(target, measured) if target and measured else [],
        "warnings": [asdict(warning) for warning in warnings],
        "conventions": CONVENTIONS,
        "plan": None if prepared is None else plan_as_json(prepared.plan),
        "outcome": None if observed is None else asdict(observed.outcome),
        "provenance": _provenance(job, prepared, ranks),
    }
    return Result(**secrets.clean_tree(fields))


def _spelled_out(settings: Any) -> Any:
    """Replace infinities, which JSON doesn't have, by their text; the user may have given one to the framework."""
    if isinstance(settings, dict):
        return {key: _spelled_out(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_spelled_out(value) for value in settings]
    return str(settings) if isinstance(settings, float) and not math.isfinite(settings) else settings


def _work_fields(rank: RankRecord) -> dict[str, Any]:
    """Return the work that the probe described, with the positions of the first step."""
    first = rank.micro_batches[0] if rank.micro_batches else ()
    return {**rank.work, "positions_per_step": sum(batch.batch_size * batch.sequence_length for batch in first)}


def _hardware_fields(target: Target, peaks: Peaks | None) -> dict[str, Any]:
    peak, ceiling = (peaks.peak, peaks.ceiling) if peaks else (None, None)
    return {
        **asdict(target.machine),
        "precision": target.precision,
        "peak_flops_per_second": None if peak is None else peak.flops_per_second,
        "peak_dtype": None if peak is None else peak.dtype,
        "peak_source": None if peak is None else peak.source,
        "peak_measured": None if peak is None else peak.measured,
        "ceiling_flops_per_second": None if ceiling is None else ceiling.flops_per_second,
        "ceiling_source": None if ceiling is None else ceiling.source,
    }


def _condition_fields(target: Target, measured: Measured) -> list[dict[str, Any]]:
    return [{"device": target.machine.device, **asdict(condition)} for condition in measured.conditions]


def _flops_fields(prepared: Prepared, measured: Measured | None) -> dict[str, Any]:
    """Return the FLOPs per optimizer step and device, under the published reports' names too, and the other two counts."""
    flops, second = (measured or prepared).flops, prepared.second_count
    in_situ = measured.in_situ if measured else None
    in_situ_flops = None if in_situ is None else in_situ.flops
    return {
        **asdict(flops),
        "profiled_tflop_per_step": flops.hardware_flops / 1e12,
        "model_tflop_per_step": flops.model_flops / 1e12,
        "profiled_in_situ_tflop_per_step": None if in_situ_flops is None else in_situ_flops / 1e12,
        "in_situ": None if in_situ is None else asdict(in_situ),
        "second_count": None if second is None else {**asdict(second.figures), "apart": second.apart},
        "second_count_in_words": second_count_in_words(prepared.target.experiment, second),
    }


def _data(prepared: Prepared) -> dict[str, Any]:
    """Describe the training data: its source, and how many samples there are and were read."""
    return {
        "name": prepared.target.experiment.data.name,
        "source": prepared.workload.data_source,
        "num_rows": prepared.workload.num_rows,
        "num_samples": prepared.workload.num_samples,
    }


def _provenance(job: Job, prepared: Prepared | None, ranks: Sequence[RankRecord]) -> dict[str, Any]:
    framework_versions: Mapping[str, str] = next((rank.versions for rank in ranks), {})
    return {
        "mfubench": mfubench.__version__,
        "commit": job.identity["versions"]["commit"],
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "counted_with": {name: version(name) for name in packages("figures")},
        "framework_environment": dict(framework_versions),
        "folder": str(job.folder),
        "data": None if prepared is None else _data(prepared),
        "identity": job.identity,
    }
