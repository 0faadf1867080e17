"""Observe a run: start the framework, poll its records, sample the machine, and read what the probe wrote."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Console

from mfubench.config import schema
from mfubench.flops.counts import FlopCount
from mfubench.hardware.monitor import Monitor, start_monitor
from mfubench.hardware.peaks import Peak
from mfubench.launch.outcome import Ending, Outcome
from mfubench.launch.start import clear, launch
from mfubench.measure.profile_request import profile_request
from mfubench.measure.progress import progress_bar
from mfubench.measure.status import periods_recorded
from mfubench.measure.stopping_rule import Rule
from mfubench.plan.plan import Plan
from mfubench.plan.prepare import Target
from mfubench.plan.stage import print_stage
from mfubench.records.reading import Records, read_records


@dataclass(frozen=True)
class Observed:
    """The end of a run's processes, and all that was recorded."""

    outcome: Outcome
    records: Records
    monitor: Monitor  # to be asked for the conditions once


def observe(plan: Plan, target: Target, ideal_step_s: float | None, console: Console) -> Observed:
    """Run the plan to its end, or until the steps recorded are enough. Raises OSError if the disk is too full to start.

    `ideal_step_s`: of a step's model FLOPs at the peak, in s; None: not known.
    """
    measurement = target.experiment.measurement
    rule, monitor = rule_of(measurement), start_monitor(target.machine, target.devices_here, not plan.per_node)
    request = profile_request(plan, measurement)
    try:
        with progress_bar(plan, rule, measurement.stall_s, ideal_step_s, console, request) as progress:

            def poll() -> Ending | None:
                monitor.sample()
                return progress()

            outcome = launch(plan, poll)
        recorded = read_records(plan.records)
        steps = periods_recorded(recorded, plan.num_ranks)
        print_stage(f"training, {steps} steps", outcome.wall_s, console)
    finally:
        clear(plan)  # from here on others read what the framework wrote
    peak_memory = {rank.rank: rank.peak_memory_bytes for rank in recorded.ranks}
    return Observed(replace(outcome, peak_memory_bytes=peak_memory), recorded, monitor)


def ideal_step_s(flops: FlopCount, peak: Peak | None) -> float | None:
    """Return the time of a step's model FLOPs at the peak, in s; None if one of them isn't known."""
    return None if flops.model_flops is None or peak is None else flops.model_flops / peak.flops_per_second


def rule_of(measurement: schema.Measurement) -> Rule:
    """Return the rule that ends a run of these settings."""
    return Rule(
        warmup=measurement.warmup_steps,
        least=min(measurement.minimum_steps, measurement.steps),
        most=measurement.steps,
        precision=measurement.relative_precision,
        seconds=measurement.seconds,
    )
