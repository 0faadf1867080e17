"""Plan a user's own command, of which nothing is known and nothing is asked before the probe has seen it train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from mfubench.config import Data, Experiment, Framework, GradientCheckpointing, Mode, Model, Parallelism
from mfubench.config.errors import no_secret_in
from mfubench.config.vocabulary import NOTHING_ASKED, UNKNOWN
from mfubench.plan.native import PROFILE_FLOPS, Plan

COMMAND_FILE = "command.yaml"


def nothing_asked(settings: Experiment, name: str, command: Sequence[str]) -> Experiment:
    """Return the experiment of a command: of `settings`, its measurement, hardware and tracking; the rest is not known."""
    return replace(
        settings,
        batch_size=0,
        sequence_length=0,
        gradient_accumulation_steps=0,
        precision=UNKNOWN,
        attention=UNKNOWN,
        optimizer=UNKNOWN,
        comparison=NOTHING_ASKED,
        mode=Mode(UNKNOWN),
        parallelism=Parallelism(UNKNOWN, num_devices=1, launcher=[], wrapper=None),
        gradient_checkpointing=GradientCheckpointing(UNKNOWN),
        data=Data("its own", padding=""),
        model=Model(UNKNOWN, hub_id=None, revision=None, weights=UNKNOWN, architecture={}),
        framework=Framework(
            name=name,
            python=None,
            command=list(command),
            environment={},
            config_file=COMMAND_FILE,
            random_weights=UNKNOWN,
            loss=UNKNOWN,
            base={},
            when={},
            unsupported=[],
            native={},
        ),
    )


def plan_command(experiment: Experiment, folder: Path, working_folder: Path) -> Plan:
    """Return the plan of the experiment's command, to be started in `working_folder`, with its records in `folder`."""
    command, measurement = tuple(experiment.framework.command or ()), experiment.measurement
    for word in command:
        no_secret_in(word, "the command")
    return Plan(
        command=command,
        environment={PROFILE_FLOPS: "1"} if measurement.profile_flops else {},
        config_path=folder / COMMAND_FILE,
        config_text=yaml.safe_dump({"command": list(command), "working_folder": str(working_folder)}, sort_keys=False),
        other_files={},
        folder=folder,
        num_ranks=1,  # until more are seen
        max_steps=None,
        periods=measurement.warmup_steps + measurement.steps,
        timeout_s=measurement.timeout_s,
        working_folder=working_folder,
    )
