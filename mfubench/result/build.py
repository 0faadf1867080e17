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
from mfubench.explain.explanation import Explanation
from mfubench.files import secrets
from mfubench.hardware.peaks import Peaks
from mfubench.measure.measure import Measured
from mfubench.measure.metric_table import CONVENTIONS
from mfubench.measure.observe import Observed
from mfubench.measure.run_warnings import run_warnings
from mfubench.measure.status import RunStatus
from mfubench.plan.engines import label
from mfubench.plan.plan import plan_file
from mfubench.plan.prepare import Prepared, Target
from mfubench.records.reading import RankRecord
from mfubench.result.job import Job
from mfubench.result.result_file import FoundHardware, Provenance, Result, from_content

IN_EVERY_NAME = ("framework", "framework.engine", "model", "mode")
ABBREVIATED = {"batch_size": "bs", "sequence_length": "seq", "gradient_accumulation_steps": "accumulation"}


def run_name(experiment: Experiment, engine: str | None, varied: Mapping[str, str]) -> str:
    """Return framework[-engine]-model-mode and what the run's sweep varies, as in -rank16-bs2: the run's name in W&B."""
    framework = experiment.framework.name
    parts = [framework if engine in (None, framework) else f"{framework}-{engine}"]
    parts += [experiment.model.name, experiment.mode.name]
    for key in (key for key in varied if key not in IN_EVERY_NAME):
        word, value = ABBREVIATED.get(key, key.rpartition(".")[2]), varied[key].strip("'\"")
        parts.append(f"{word}{value}" if value.isdecimal() else f"{word}-{value}")
    return "-".join(parts)


def build(
    job: Job,
    status: RunStatus,
    target: Target | None,
    prepared: Prepared | None,
    peaks: Peaks | None,
    observed: Observed | None,
    measured: Measured | None,
    explained: Explanation | str | None,
) -> Result:
    """Build the Result; a stage that wasn't reached is None. Only `ok` has a measurement, other figures are withheld.

    `explained`: the explanation, or the reason why there is none.
    """
    experiment = target.experiment if target else job.experiment
    engine = target.engine if target else None
    measurement = measured.measurement if measured else None
    ok = status.status == "ok"
    ranks = observed.records.ranks if observed else ()
    measured_rank = measurement.rank if measurement else 0
    nodes = sorted({rank.node for rank in ranks if rank.node is not None})
    result = Result(
        name=run_name(experiment, engine, job.varied),
        framework=label(experiment.framework.name, engine),
        engine=engine,
        status=status.status,
        reason=status.reason,
        stopped_by=status.stopped_by,
        group=job.group,
        started_at=job.started_at.isoformat(timespec="seconds"),
        settings=_spelled_out(asdict(experiment)),
        hardware=None if target is None else _hardware(target, peaks),
        flops=None if prepared is None else (measured or prepared).flops,
        second_count=None if prepared is None else prepared.second_count,
        in_situ=measured.in_situ if measured else None,
        work=_spelled_out(next((_work(rank, ranks) for rank in ranks if rank.rank == measured_rank), None)),
        differences=measured.differences if measured else (),
        measurement=measurement if ok else None,
        withheld=None if ok else measurement,
        step_times_s={str(rank.rank): rank.step_times_s for rank in ranks},
        history=tuple(measured.history) if measured and ok else (),
        conditions=tuple(measured.conditions) if measured else (),
        warnings=tuple(run_warnings(experiment, status, target, prepared, peaks, observed, measured)),
        conventions=CONVENTIONS,
        plan=None if prepared is None else plan_file(prepared.plan),
        outcome=None if observed is None else observed.outcome,
        provenance=_provenance(job, prepared, ranks),
        nodes={node: tuple(rank.rank for rank in ranks if rank.node == node) for node in nodes},
        unwatched_nodes=target.nodes.names[1:] if target else (),
        step_boundary=next((rank.boundary for rank in ranks if rank.rank == measured_rank), None),
        explanation=explained if isinstance(explained, Explanation) else None,
        no_explanation=explained if isinstance(explained, str) else None,
    )
    return from_content(secrets.clean_tree(asdict(result)))


def _spelled_out(settings: Any) -> Any:
    """Replace infinities, which JSON doesn't have, by their text: a model's config may hold one."""
    if isinstance(settings, dict):
        return {key: _spelled_out(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [_spelled_out(value) for value in settings]
    return str(settings) if isinstance(settings, float) and not math.isfinite(settings) else settings


def _work(rank: RankRecord, ranks: Sequence[RankRecord]) -> dict[str, Any]:
    """Return the work that the probe described, and of the first step the positions and what the losses depend on.

    That is of each micro-batch on all ranks a checksum of its token ids and the number of its targets.
    """
    first = rank.micro_batches[0] if rank.micro_batches else ()
    of_all = [batch for each in ranks for batch in next(iter(each.micro_batches), ())]
    return {
        **rank.work,
        "positions_per_step": sum(batch.batch_size * batch.sequence_length for batch in first),
        "first_step": [[batch.checksum, batch.targets] for batch in of_all],
    }


def _hardware(target: Target, peaks: Peaks | None) -> FoundHardware:
    peak, ceiling = (peaks.peak, peaks.ceiling) if peaks else (None, None)
    return FoundHardware(
        **asdict(target.machine),
        precision=target.precision,
        peak_flops_per_second=None if peak is None else peak.flops_per_second,
        peak_dtype=None if peak is None else peak.dtype,
        peak_source=None if peak is None else peak.source,
        peak_measured=None if peak is None else peak.measured,
        peak_relative_half_width=None if peak is None else peak.relative_half_width,
        ceiling_flops_per_second=None if ceiling is None else ceiling.flops_per_second,
        ceiling_source=None if ceiling is None else ceiling.source,
    )


def _data(prepared: Prepared) -> dict[str, Any] | None:
    """Describe the training data: its source, and how many samples there are and were read; None: they aren't known."""
    made = prepared.workload
    if made is None:
        return None
    return {
        "name": prepared.target.experiment.data.name,
        "source": made.data_source,
        "num_rows": made.num_rows,
        "num_samples": made.num_samples,
    }


def _provenance(job: Job, prepared: Prepared | None, ranks: Sequence[RankRecord]) -> Provenance:
    framework_versions: Mapping[str, str] = next((rank.versions for rank in ranks), {})
    return Provenance(
        folder=str(job.folder),
        mfubench=mfubench.__version__,
        commit=job.identity["versions"]["commit"],
        python=sys.version.split()[0],
        platform=platform.platform(),
        counted_with={name: version(name) for name in packages("figures")},
        framework_environment=framework_versions,
        data=None if prepared is None else _data(prepared),
        identity=job.identity,
        overrides=job.overrides,
    )
