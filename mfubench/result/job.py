"""Give a run a folder of its own, its sweep and its identity; find the earlier ok result that makes it unnecessary."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mfubench.config import Experiment
from mfubench.config.errors import key_of
from mfubench.files import secrets
from mfubench.plan.plan import RECORDS
from mfubench.result import resume
from mfubench.result.identity import identity
from mfubench.result.result_file import Result

Composed = Mapping[str, str]  # files of a run's .hydra/: name -> text


@dataclass(frozen=True)
class Job:
    """One run, before anything but its settings is known."""

    experiment: Experiment
    folder: Path  # its own
    group: str | None  # the sweep's day and time; None: a single run
    identity: Mapping[str, Any]
    earlier: tuple[Path, ...]  # folders that may hold runs of the same settings
    started_at: datetime  # UTC
    overrides: tuple[str, ...]  # as given on the command line
    varied: Mapping[str, str]  # settings that its sweep varies, with the values of this run


def claim(experiment: Experiment, folder: Path, sweep: Path | None, composed: Composed, varied: Collection[str]) -> Job:
    """Take a folder for the run and keep the `composed` configuration in its .hydra/. Raises ConfigError if it is taken.

    `varied`: the settings that the sweep varies.
    """
    own_identity, earlier = identity(experiment), resume.earlier_folders(folder, sweep)
    folder = resume.claim_folder(folder, experiment.resume)
    _keep_composed(composed, folder)
    group = None if sweep is None else "/".join(sweep.parts[-2:])
    overrides = tuple(map(str, yaml.safe_load(composed.get("overrides.yaml", "[]"))))
    own = {key_of(each): each.partition("=")[2] for each in overrides if key_of(each) in varied}
    return Job(experiment, folder, group, own_identity, earlier, datetime.now(UTC), overrides, own)


def claim_for_preview(folder: Path, composed: Composed) -> None:
    """Keep the composed configuration in the folder of a dry run. Raises ConfigError if a run's files lie there."""
    if (folder / RECORDS).exists():  # its files would say what this one would run
        raise resume.folder_taken(folder)
    _keep_composed(composed, folder)


def supersede_earlier(job: Job, result: Result) -> None:
    """Let the result of a resumed run take the place of the earlier ones of the same settings."""
    if job.experiment.resume:
        resume.supersede(job.identity, job.earlier, by=job.folder, ok=result.status == "ok")


def done_before(experiment: Experiment, folder: Path, sweep: Path | None, console: Console) -> Result | None:
    """Return the ok result of this very experiment in its sweep, or in its own folder; None if it has to be run."""
    earlier, own_identity = resume.earlier_folders(folder, sweep), identity(experiment)
    if (found := resume.find_ok(own_identity, earlier)) is None:
        return None
    result, its_folder = found
    resume.supersede(own_identity, earlier, by=its_folder, ok=True)  # a process killed meanwhile left that undone
    if folder != its_folder:
        with suppress(OSError):  # it is missing, or another run's
            folder.rmdir()  # Hydra has just made it
    console.print(f"ok already: {result.name} in {its_folder}", style="dim", markup=False, highlight=False)
    return result


def _keep_composed(composed: Composed, folder: Path) -> None:
    (folder / ".hydra").mkdir(exist_ok=True)
    for name, text in composed.items():
        (folder / ".hydra" / name).write_text(secrets.clean(text))
