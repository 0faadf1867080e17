"""Gather the doctor's Findings from the overrides of a run, for the tables and for JSON."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import mfubench
from mfubench.config import Experiment
from mfubench.config.compose import compose_one
from mfubench.config.errors import COMMAND, key_of
from mfubench.doctor import here
from mfubench.doctor.here import STATE_MISSING, STATE_READY, Cache, Devices, Environment
from mfubench.doctor.matrix import MatrixRow, at_best_precision, every_option, matrix, not_installed, why_not
from mfubench.tracking import destination
from mfubench.workload.hub import has_token

INSTALLED_SIZE = "3 to 9 GB"  # of disk: the least with torch for CPUs, the most with CUDA


@dataclass(frozen=True)
class Findings:
    """The doctor's findings: ready and missing parts."""

    version: str
    python: str
    devices: Devices
    environments: dict[str, Environment]  # by framework
    precisions: dict[
        str, str
    ]  # by framework: of the matrix and the commands; auto, unless another one runs in more modes
    rows: list[MatrixRow]  # the support matrix
    tracking: str  # online | offline | disabled
    hub_token: bool
    cache: Cache
    problems: list[str]  # obstacles to a run, each with its way out
    commands: list[str]  # to type next


def examine(overrides: Sequence[str]) -> Findings:
    """Examine this machine and the frameworks for runs with these overrides. Raises ConfigError for wrong overrides."""
    base = compose_one(overrides)
    options = every_option()
    named = any(key_of(override) == "framework" for override in overrides)
    frameworks = [base.framework] if named else list(options["framework"].values())
    environments = {framework.name: here.framework_environment(framework) for framework in frameworks}
    found, kept = here.devices(base.hardware), here.cache()
    experiments = {
        each.name: at_best_precision(replace(base, framework=environments[each.name].framework), options, found.machine)
        for each in frameworks
    }
    precisions = {name: each.precision for name, each in experiments.items()}
    installed = [name for name, each in environments.items() if each.state != STATE_MISSING]
    rows = matrix(experiments, options, found.machine, installed)
    return Findings(
        version=mfubench.__version__,
        python=platform.python_version(),
        devices=found,
        environments=environments,
        precisions=precisions,
        rows=rows,
        tracking=destination(base.tracking),
        hub_token=has_token(),
        cache=kept,
        problems=list(_problems(base, found, environments[base.framework.name], kept)),
        commands=list(_commands(overrides, base, found, environments, rows, precisions)),
    )


def findings_as_json(found: Findings) -> dict[str, Any]:
    """The findings as JSON; a framework's YAML is left out but for its engine, which was found here."""
    tree = asdict(found)
    for each in tree["environments"].values():
        each["engine"] = each.pop("framework")["engine"]
    tree["cache"]["folder"] = str(found.cache.folder)
    return tree


def _problems(base: Experiment, found: Devices, environment: Environment, kept: Cache) -> Iterator[str]:
    """Yield the obstacles to a run of what was asked for; other frameworks may be missing."""
    if found.problem is not None:
        yield found.problem
    if not kept.writable:
        yield f"{kept.folder} can't be written to; choose another folder with MFUBENCH_CACHE=FOLDER"
    if environment.state != STATE_READY:
        yield f"{environment.framework.name} is {environment.state}"
    asked = replace(base, framework=environment.framework)
    if environment.state != STATE_MISSING and why_not(asked, found.machine) is None:
        lacking = not_installed(asked, found.machine)
        yield from [] if lacking is None else [lacking]


def _commands(
    overrides: Sequence[str],
    base: Experiment,
    found: Devices,
    environments: dict[str, Environment],
    rows: Sequence[MatrixRow],
    precisions: dict[str, str],
) -> Iterator[str]:
    """Commands to type next: runs of everything that is ready here, and installers for the rest."""
    on_cpu = ["hardware=cpu"] if found.problem else []
    kept = [o for o in overrides if key_of(o) not in ("framework", "mode", *(["hardware"] if on_cpu else []))]
    in_modes = {
        name: [row.value for row in rows if row.setting == "mode" and row.cells[name].everywhere]
        for name, each in environments.items()
        if each.state != STATE_MISSING
    }
    for precision in dict.fromkeys(precisions.values()):
        able = {n: modes for n, modes in in_modes.items() if base.mode.name in modes and precisions[n] == precision}
        if not able:
            continue
        shared = [mode for mode in next(iter(able.values())) if all(mode in modes for modes in able.values())]
        flag = ["-m"] if len(able) > 1 or len(shared) > 1 else []
        sweep = [*flag, f"framework={','.join(able)}", f"mode={','.join(shared)}"]
        sweep += [f"precision={precision}"] if precision != base.precision else []
        yield f"{COMMAND} {shlex.join([*sweep, *kept, *on_cpu])}"
    own = [
        name for name, each in environments.items() if each.state != STATE_READY and each.framework.python is not None
    ]
    if own:
        yield f"launchers/install {' '.join(own)}   # {INSTALLED_SIZE} each"
