"""The program on one screen: an Experiment in, its Result out, every stage one call, in this order."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mfubench.caveats import caveats
from mfubench.conclude import conclude
from mfubench.config import ConfigError, Experiment, WrongCombination
from mfubench.config.defaults import defaults
from mfubench.engines import NotInstalled, label
from mfubench.evidence import Evidence, now
from mfubench.launch import interrupted_once, write_files
from mfubench.measuring import measured
from mfubench.plan import RECORDS
from mfubench.planning import CANT, check_memory, expected_memory, held_against, on_this_machine, planned
from mfubench.recounts import second_count_in_words
from mfubench.report import Result, write
from mfubench.report.table import in_words
from mfubench.tracking import track
from mfubench.verdict import Verdict

if TYPE_CHECKING:
    from mfubench.memory import ExpectedMemory

REFUSALS = (*CANT, NotInstalled, WrongCombination)  # a run's verdict, before anything is started


def run(experiment: Experiment, folder: Path, group: str | None, console: Console) -> Result:
    """Measure the experiment in the folder; what goes wrong in the run is its result. `group`: the sweep it belongs to.

    Raises ConfigError for what is wrong on any machine, except for a combination inside a sweep, which is a row of it.
    """
    try:  # whoever makes this folder has the run folder: two runs may start in the same second
        (folder / RECORDS).mkdir()
    except FileExistsError as error:
        raise _taken(folder) from error
    so_far = Evidence(experiment, folder, group, started_at=now())
    with interrupted_once():
        try:
            so_far = on_this_machine(so_far)
            so_far = planned(so_far, console)
            check_memory(so_far)
            so_far = held_against(so_far, console)
            so_far = measured(so_far, console)
        except REFUSALS as error:
            so_far = replace(so_far, verdict=_refused(error, group))
        result = conclude(so_far, list(caveats(so_far, defaults(experiment.mode.name))))
        write(result, folder)
    warning = track(result, experiment.tracking, folder)
    if warning:
        console.print(warning, style="yellow")
    return result


def dry_run(experiment: Experiment, folder: Path, group: str | None, console: Console) -> bool:
    """Show what would be run and what memory it needs; whether it could be run here. Nothing is started or downloaded.

    Raises ConfigError as `run` does.
    """
    if (folder / RECORDS).exists():  # its files would say what this one would run
        raise _taken(folder)
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


def _taken(folder: Path) -> ConfigError:
    return ConfigError(
        "there is a run in this folder already",
        given=str(folder),
        expected="a folder of its own",
        instead=f"hydra.run.dir={folder}-{os.getpid()}",
    )


def _refused(error: Exception, group: str | None) -> Verdict:
    """The verdict on what can't be run here; a wrong combination outside a sweep is raised again."""
    if isinstance(error, WrongCombination) and group is None:
        raise error
    return Verdict("not_installed" if isinstance(error, NotInstalled) else "unsupported", str(error))


def _show(so_far: Evidence) -> None:
    from mfubench.report.preview import preview

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
