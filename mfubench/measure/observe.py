"""Observe a run: start the framework, poll its records, sample the machine, and read what the probe wrote."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace

from rich.console import Console

from mfubench import hardware, records
from mfubench.config import schema
from mfubench.files import secrets
from mfubench.launch.outcome import Ending, Outcome
from mfubench.launch.start import launch
from mfubench.measure.profile_request import profile_request
from mfubench.measure.progress import progress_bar
from mfubench.measure.status import periods_recorded
from mfubench.measure.stopping_rule import Rule
from mfubench.plan.prepare import Prepared
from mfubench.plan.stage import print_stage


@dataclass(frozen=True)
class Observed:
    """The end of a run's processes, and all that was recorded."""

    outcome: Outcome
    records: records.Records
    monitor: hardware.Monitor  # to be asked for the conditions once


def observe(prepared: Prepared, peaks: hardware.Peaks, console: Console) -> Observed:
    """Run the plan to its end, or until the steps recorded are enough. Raises OSError if the disk is too full to start."""
    plan, measurement = prepared.plan, prepared.target.experiment.measurement
    rule, ideal_step_s = rule_of(measurement), prepared.flops.model_flops / peaks.peak.flops_per_second
    monitor = hardware.monitor(prepared.target.machine, plan.num_ranks)
    request = profile_request(plan, measurement)
    try:
        with progress_bar(plan, rule, measurement.stall_s, ideal_step_s, console, request) as progress:

            def poll() -> Ending | None:
                monitor.sample()
                return progress()

            outcome = launch(plan, poll)
        shutil.rmtree(plan.scratch, ignore_errors=True)
        recorded = records.read_records(plan.records)
        steps = periods_recorded(recorded, plan.num_ranks)
        print_stage(f"training, {steps} steps", outcome.wall_s, console)
    finally:
        secrets.clean_output(plan.log, plan.records)  # from here on others read what the framework wrote
    peak_memory = {rank.rank: rank.peak_memory_bytes for rank in recorded.ranks}
    return Observed(replace(outcome, peak_memory_bytes=peak_memory), recorded, monitor)


def rule_of(measurement: schema.Measurement) -> Rule:
    """Return the rule that ends a run of these settings."""
    return Rule(
        warmup=measurement.warmup_steps,
        least=min(measurement.minimum_steps, measurement.steps),
        most=measurement.steps,
        precision=measurement.relative_precision,
        seconds=measurement.seconds,
    )
