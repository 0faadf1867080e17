"""Plan a user's own command, of which nothing is known and nothing is asked before the probe has seen it train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from mfubench.config import Experiment
from mfubench.config.errors import no_secret_in
from mfubench.config.vocabulary import GROUPS
from mfubench.files.paths import CONF
from mfubench.plan.native import PROFILE_FLOPS
from mfubench.plan.plan import Plan


def nothing_asked(settings: Experiment, name: str, command: Sequence[str]) -> Experiment:
    """Return the experiment of a command: of `settings`, its measurement, hardware and tracking; the rest is not known."""
    values = yaml.safe_load((CONF / "watched.yaml").read_text())
    typed = {key: GROUPS[key](**value) if key in GROUPS else value for key, value in values.items()}
    framework = replace(typed.pop("framework"), name=name, command=list(command))
    measurement = replace(settings.measurement, profile_steps=0, keep_trace=False)  # when to profile isn't known either
    return replace(settings, **typed, framework=framework, measurement=measurement)


def plan_command(experiment: Experiment, folder: Path, working_folder: Path) -> Plan:
    """Return the plan of the experiment's command, to be started in `working_folder`, with its records in `folder`."""
    command, measurement = tuple(experiment.framework.command or ()), experiment.measurement
    for word in command:
        no_secret_in(word, "the command")
    return Plan(
        command=command,
        environment={PROFILE_FLOPS: "1"} if measurement.profile_flops else {},
        config_path=folder / experiment.framework.config_file,
        config_text=yaml.safe_dump({"command": list(command), "working_folder": str(working_folder)}, sort_keys=False),
        other_files={},
        folder=folder,
        num_ranks=1,  # until more are seen
        max_steps=None,
        periods=measurement.warmup_steps + measurement.steps,
        timeout_s=measurement.timeout_s,
        working_folder=working_folder,
    )
