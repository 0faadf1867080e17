"""The program on one screen: an Experiment in, its Result out, every stage one call, in this order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mfubench.config import Experiment, Tracking, WrongCombination
from mfubench.config.defaults import defaults
from mfubench.files import secrets
from mfubench.flops.crosscheck import second_count_in_words
from mfubench.hardware.lock import alone_on
from mfubench.launch.interrupts import interrupted_once
from mfubench.launch.start import write_files
from mfubench.measure.evidence import Evidence, now
from mfubench.measure.observe import measured
from mfubench.measure.run_warnings import caveats
from mfubench.measure.status import Verdict
from mfubench.plan.engines import NotInstalled, label
from mfubench.plan.native import RECORDS
from mfubench.plan.prepare import CANT, check_memory, expected_memory, held_against, on_this_machine, planned
from mfubench.report.settings import in_words
from mfubench.result import Result, resume, write
from mfubench.result.build import conclude
from mfubench.result.identity import identity
from mfubench.tracking import track

if TYPE_CHECKING:
    from mfubench.flops.memory import ExpectedMemory

REFUSALS = (*CANT, NotInstalled, WrongCombination)  # a run's verdict, before anything is started


def run(
    experiment: Experiment, folder: Path, sweep: Path | None, composed: Mapping[str, str], console: Console
) -> Result:
    """Measure the experiment in the folder; what goes wrong in the run is its result. `composed`: kept in .hydra/ there.

    Raises ConfigError for what is wrong on any machine, except for a combination inside a sweep, which is a row of it.
    """
    mine, below, group = identity(experiment), resume.places(folder, sweep), _group(sweep)
    folder = resume.claimed(folder, experiment.resume)
    _keep(composed, folder)
    so_far = Evidence(experiment, folder, group, started_at=now())
    with interrupted_once():
        try:
            so_far = on_this_machine(so_far)
            assert so_far.machine is not None
            with alone_on(so_far.machine, experiment.parallelism.num_devices, folder, console):
                so_far = planned(so_far, console)
                check_memory(so_far)
                so_far = held_against(so_far, console)
                so_far = measured(so_far, console)
        except REFUSALS as error:
            so_far = replace(so_far, verdict=_refused(error, group))
        finally:
            if so_far.plan is not None:  # from here on others read what the framework wrote
                secrets.clean_output(so_far.plan.log, so_far.plan.records)
        result = conclude(so_far, list(caveats(so_far, defaults(experiment.mode.name))))
        result = replace(result, provenance={**result.provenance, "identity": mine})
        result = Result(**secrets.clean_tree(asdict(result)))
        write(result, folder)
    if experiment.resume:
        resume.supersede(mine, below, by=folder, ok=result.status == "ok")
    return result


def log(result: Result, tracking: Tracking, console: Console) -> None:
    """Put a result that lies in its folder on W&B; where that fails, say how to do it later."""
    warning = track(result, tracking, Path(result.provenance["folder"]))
    if warning:
        console.print(warning, style="yellow")


def done_before(experiment: Experiment, folder: Path, sweep: Path | None, console: Console) -> Result | None:
    """The ok result of this very experiment in its sweep, or in its own folder; None where it is to be run."""
    below, mine = resume.places(folder, sweep), identity(experiment)
    if (found := resume.done(mine, below)) is None:
        return None
    result, lies_in = found
    resume.supersede(mine, below, by=lies_in, ok=True)  # whoever was killed meanwhile left that undone
    if folder != lies_in:
        with suppress(OSError):  # it is missing, or another run's
            folder.rmdir()  # Hydra has just made it
    console.print(f"ok already: {result.name} in {lies_in}", style="dim", markup=False, highlight=False)
    return result


def dry_run(
    experiment: Experiment, folder: Path, sweep: Path | None, composed: Mapping[str, str], console: Console
) -> bool:
    """Show what would be run and what memory it needs; whether it could be run here. Nothing is started or downloaded.

    Raises ConfigError as `run` does.
    """
    if (folder / RECORDS).exists():  # its files would say what this one would run
        raise resume.taken(folder)
    _keep(composed, folder)
    group = _group(sweep)
    so_far = Evidence(experiment, folder, group, started_at=now())
    try:
        so_far = planned(on_this_machine(so_far), console)
        if so_far.on_gpu or experiment.hardware.peak_flops_per_second is not None:
            so_far = held_against(so_far, console)
        _show(so_far)
        check_memory(so_far)
    except REFUSALS as error:
        refused = _refused(error, group)
        console.print(f"{refused.status}: {refused.reason}", style="red", markup=False, highlight=False)
        return False
    return True


def _group(sweep: Path | None) -> str | None:
    """What the runs of one sweep have in common, and no other sweep's: its day and time."""
    return None if sweep is None else "/".join(sweep.parts[-2:])


def _keep(composed: Mapping[str, str], folder: Path) -> None:
    (folder / ".hydra").mkdir(exist_ok=True)
    for name, text in composed.items():
        (folder / ".hydra" / name).write_text(secrets.clean(text))


def _refused(error: Exception, group: str | None) -> Verdict:
    """The verdict on what can't be run here; a wrong combination outside a sweep is raised again."""
    if isinstance(error, WrongCombination) and group is None:
        raise error
    return Verdict("not_installed" if isinstance(error, NotInstalled) else "unsupported", str(error))


def _show(so_far: Evidence) -> None:
    from mfubench.plan.preview import preview

    assert so_far.plan is not None and so_far.machine is not None and so_far.flops is not None
    write_files(so_far.plan)
    settings = in_words(
        asdict(so_far.experiment), label(so_far.experiment.framework.name, so_far.engine), so_far.precision
    )
    try:
        memory: ExpectedMemory | str = expected_memory(so_far)
    except ValueError as error:  # a framework's YAML may name an optimizer that no formula knows
        memory = str(error)
    second = second_count_in_words(so_far.experiment, so_far.second_count)
    preview(settings, so_far.plan, so_far.machine, so_far.peak, so_far.flops, second, memory, Console())
