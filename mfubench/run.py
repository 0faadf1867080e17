"""The program on one screen: an Experiment in, its Result out, every stage one call, in this order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from mfubench.config import Experiment
from mfubench.explain.explain import explain, tidy
from mfubench.hardware.lock import exclusive
from mfubench.launch import meeting
from mfubench.launch.interrupts import interrupted_once
from mfubench.launch.outcome import Ending
from mfubench.launch.programs import responds, run_together
from mfubench.launch.start import clear, launch
from mfubench.measure.measure import measure, status_of
from mfubench.measure.observe import ideal_step_s, observe
from mfubench.measure.status import refused
from mfubench.plan.memory_hint import hint_at_memory
from mfubench.plan.prepare import (
    REFUSALS,
    check_installed,
    check_memory,
    known_peak,
    measure_peaks,
    prepare,
    resolve,
    visit,
)
from mfubench.plan.preview import preview
from mfubench.plan.seen import seen_peaks, seen_target, seen_work
from mfubench.plan.watched import plan_command
from mfubench.report.settings import settings_in_words
from mfubench.result import Result, write_result
from mfubench.result.build import build
from mfubench.result.job import Composed, claim, claim_for_preview, supersede_earlier


def run(
    experiment: Experiment,
    folder: Path,
    sweep: Path | None,
    composed: Composed,
    console: Console,
    varied: Collection[str] = (),
) -> Result:
    """Measure the experiment in the folder; what goes wrong in the run is its result. Raises ConfigError."""
    job = claim(experiment, folder, sweep, composed, varied)
    target = prepared = peaks = observed = measured = explained = None
    with interrupted_once(), meeting.over_at_the_end(job.folder, experiment.cluster):
        try:
            target = resolve(experiment, responds)
            check_installed(target, responds)
            with exclusive(target.machine, target.devices_here, job.folder, console):
                target = visit(target, job.folder, run_together)
                prepared = prepare(target, job.folder, console)
                check_memory(prepared)
                hint_at_memory(prepared, console)
                peaks = measure_peaks(target, run_together, console)
                meeting.gather(target.nodes, experiment.cluster.join_timeout_s)
                observed = observe(prepared.plan, target, ideal_step_s(prepared.flops, peaks.peak), console)
                measured = measure(prepared, peaks, observed)
            status = status_of(observed, measured)
            explained = explain(prepared, peaks, observed, measured) if status.status == "ok" else None
            tidy(prepared, measured)
        except REFUSALS as error:
            status = refused(error, sweep)
        result = build(job, status, target, prepared, peaks, observed, measured, explained)
        write_result(result, job.folder)
    supersede_earlier(job, result)
    return result


def watch(experiment: Experiment, folder: Path, composed: Composed, working_folder: Path, console: Console) -> Result:
    """Measure the experiment's own command while it runs as ever: only then is it known what it does. Raises ConfigError."""
    plan = plan_command(experiment, folder, working_folder)
    job = claim(experiment, folder, None, composed, ())
    target = prepared = peaks = observed = measured = None
    with interrupted_once():
        try:
            target = resolve(experiment, responds)
            with exclusive(target.machine, target.machine.num_devices, job.folder, console):
                observed = observe(plan, target, None, Console(quiet=True))
                target = seen_target(target, observed.records)
                prepared, peaks = seen_peaks(seen_work(target, plan, observed.records), run_together, console)
                measured = measure(prepared, peaks, observed)
            status = status_of(observed, measured)
        except REFUSALS as error:
            status = refused(error, None)
        result = build(job, status, target, prepared, peaks, observed, measured, explained=None)
        write_result(result, job.folder)
    return result


def follow(experiment: Experiment, rank: int, shared: Path, console: Console) -> bool:
    """Run this node's ranks of a run that the first node measures and ends; False if this node couldn't take part."""
    folder = meeting.folder_of(shared, rank)
    folder.mkdir(parents=True, exist_ok=True)
    with interrupted_once():
        try:
            target = resolve(experiment, responds)
            check_installed(target, responds)
            with exclusive(target.machine, target.devices_here, folder, console):
                target = visit(target, shared, run_together)
                prepared = prepare(target, folder, console)
                check_memory(prepared)
                if meeting.join(shared, rank, experiment.cluster.join_timeout_s):
                    launch(prepared.plan, lambda: Ending("stopped") if meeting.is_over(shared) else None)
                    clear(prepared.plan)
        except REFUSALS as error:
            meeting.tell(shared, rank, str(error))
            console.print(refused(error, None).in_one_line, style="red", markup=False, highlight=False)
            return False
        return meeting.wait_for_the_end(shared)


def dry_run(experiment: Experiment, folder: Path, sweep: Path | None, composed: Composed, console: Console) -> bool:
    """Print what would be run and the memory it needs; False if it couldn't run here. Starts nothing. Raises ConfigError."""
    claim_for_preview(folder, composed)
    try:
        target = visit(resolve(experiment, responds), folder, run_together)
        prepared = prepare(target, folder, console)
        settings = settings_in_words(asdict(target.experiment), target.framework_label, target.precision)
        preview(prepared, settings, known_peak(target, run_together, console))
        check_memory(prepared)
        hint_at_memory(prepared, console)
    except REFUSALS as error:
        console.print(refused(error, sweep).in_one_line, style="red", markup=False, highlight=False)
        return False
    return True
