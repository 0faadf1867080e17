"""Compose Experiments from the command line and conf/: give Hydra the schema, and compose each job before any starts.

Hydra's own exceptions become a ConfigError with the nearest valid setting or option.
"""

from __future__ import annotations

import os
import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mfubench.config import schema
from mfubench.config.defaults import options_of
from mfubench.config.errors import ConfigError, WrongCombination, no_secret_in, quoted
from mfubench.config.hydra_errors import CONFIG_NAME, no_additions, no_such_option, not_yaml, rejected
from mfubench.config.hydra_internal import expand_sweep
from mfubench.config.overrides import checked_flags, parse
from mfubench.config.validate import validate
from mfubench.config.vocabulary import GROUPS
from mfubench.files.paths import CONF

PLANNED = ("framework", "cluster")
FILLED_IN = re.compile(r"\$\{[^}]*\}")
LEFT_TO_HYDRA = ("hydra_help", "shell_completion", "config_path")  # flags that have no settings of conf/


@dataclass(frozen=True)
class Sweep:
    """A sweep, as given on the command line."""

    folder: Path
    named: bool  # True if the command line names the folder
    pattern: str  # of sweeps' default folders
    overrides: tuple[str, ...]  # of settings, without Hydra's own
    resume: bool
    num_jobs: int  # 0: the sweeper chooses them as it goes
    varied: tuple[str, ...]  # keys with several values
    elsewhere: bool = False  # its jobs run in other processes, which leave their results in its folder


def store_schema() -> None:
    """Give Hydra the types. Frozen dataclasses compose as read-only nodes, so that is lifted until the values are in."""
    node = OmegaConf.structured(schema.Experiment)
    OmegaConf.set_readonly(node, None)
    for group in GROUPS:
        OmegaConf.set_readonly(node._get_node(group), None)
    ConfigStore.instance().store(name="schema", node=node)


def to_experiment(composed: DictConfig) -> schema.Experiment:
    """The composed configuration as an Experiment. Raises ConfigError for unknown keys and missing values.

    PLANNED groups stay unresolved: the names in their ${...} are known to the plan only.
    """
    try:
        content: dict[Any, Any] = {name: composed[name] for name in composed if name != "hydra"}
        no_additions("", content, schema.Experiment)
        for name, group in GROUPS.items():
            values: Any = OmegaConf.to_container(composed[name], resolve=name not in PLANNED, throw_on_missing=True)
            no_additions(f"{name}.", values, group)
            content[name] = group(**values)
        return schema.Experiment(**content)
    except OmegaConfBaseException as error:
        raise ConfigError(
            "a setting has no value",
            given=str(error).splitlines()[0],
            expected=f"every group to be chosen in {CONF}; a text's own ${{ as \\${{",
        ) from error


def job_overrides() -> list[str]:
    """Return the running job's overrides as they were given, an interpolation as it stands."""
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
    return [str(override) for override in overrides]


def in_files(composed: DictConfig) -> dict[str, str]:
    """The job's composition, as Hydra keeps it in .hydra/: file name → text."""
    overrides = HydraConfig.get().overrides.task
    trees = {"config.yaml": composed, "hydra.yaml": HydraConfig.instance().cfg, "overrides.yaml": overrides}
    return {name: OmegaConf.to_yaml(tree) for name, tree in trees.items()}


def flags_first(argv: Sequence[str]) -> list[str]:
    """`argv` with -m in front: Hydra's parser takes no overrides both before and after a flag."""
    return sorted(argv, key=lambda argument: argument not in ("-m", "--multirun"))


def check_command_line(argv: Sequence[str], check: Callable[[schema.Experiment], None] = validate) -> Sweep | None:
    """Compose and `check` every job of `argv`, so that a setting wrong on any machine stops all of them.

    A wrong combination inside a sweep is left to its own job, and settings that are only printed needn't make a run.
    Returns the sweep, if there is one. Raises ConfigError, the user's error screen.
    """
    flags = checked_flags(argv)
    if any(getattr(flags, name) for name in LEFT_TO_HYDRA):
        return None
    prints = flags.help or flags.cfg or flags.info
    with _overrides(flags) as overrides:
        base = _base(overrides)
        if not prints and (flags.multirun or base.hydra.mode == RunMode.MULTIRUN):
            num_jobs = 0
            for composed in _jobs(base, overrides):
                num_jobs += 1
                with suppress(WrongCombination):
                    check(to_experiment(composed))
            return _sweep(base, overrides, num_jobs)
        if (swept := _swept(overrides)) is not None:
            key, _, values = str(swept.input_line).partition("=")
            one_path = key == "data.path" and not all(map(os.path.exists, values.split(",")))
            sweep = None if prints else f"-m {shlex.quote(f'{key}={values}')}"
            raise ConfigError(
                f"{key} has several values, and a run takes one",
                given=str(swept.input_line),
                expected="one value, in quotes if it has commas, or -m for a sweep over all of them",
                instead=shlex.quote(f"{key}={quoted(values)}") if one_path else sweep,
            )
        experiment = to_experiment(base)
        if not prints:
            check(experiment)
            _check_started_by_others(base, overrides, sweeps=False)
        return None


def resolved_yaml(argv: Sequence[str]) -> str | None:
    """The text of `--cfg job --resolve`, the framework's ${...} left to the plan, which alone knows them; None without."""
    flags = checked_flags(argv)
    if flags.cfg != "job" or not flags.resolve:
        return None
    with _overrides(flags) as overrides:
        composed = _base(overrides)
        for name in GROUPS.keys() - set(PLANNED):
            OmegaConf.resolve(composed[name])
        shown = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        part = OmegaConf.select(shown, flags.package) if flags.package else shown
        return OmegaConf.to_yaml(part) if OmegaConf.is_config(part) else f"{part}\n"


@contextmanager
def _overrides(flags: Namespace) -> Iterator[list[Override]]:
    """Initialise Hydra, and yield the parsed overrides, with --config-dir among them. Raises ConfigError."""
    own = flags.config_dir and quoted(f"file://{os.path.abspath(flags.config_dir)}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield parse([*flags.overrides, *([f"hydra.searchpath=[{own}]"] if own else [])])


def _check_started_by_others(base: DictConfig, overrides: Sequence[Override], sweeps: bool) -> None:
    """Raise ConfigError unless nodes that others start run one job, in a new folder of one name; the default is the time."""
    cluster, named = base.cluster, any(override.key_or_group == "hydra.run.dir" for override in overrides)
    if cluster.node_rank and not base.dry_run and (sweeps or base.resume or not named):
        raise ConfigError(
            f"with cluster={cluster.name} every node runs one job, in a new folder that all of them see",
            given=f"cluster={cluster.name}",
            expected="hydra.run.dir=FOLDER, no sweep and no resume=true",
            instead=None if sweeps else f"cluster={cluster.name} resume=false hydra.run.dir=outputs/my-run",
        )


def compose_one(overrides: Sequence[str]) -> schema.Experiment:
    """Compose and validate the one Experiment of `overrides`. Raises ConfigError, the user's error screen."""
    store_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        parsed = parse(overrides)
        if (swept := _swept(parsed)) is not None:
            key = swept.get_key_element()
            values = list(swept.sweep_string_iterator()) if swept.is_discrete_sweep() else []
            raise ConfigError(
                f"{key} has several values, and this command takes one workload",
                given=str(swept.input_line),
                expected="one value",
                instead=f"{key}={values[0]}" if values else None,
            )
        experiment = to_experiment(_base(parsed))
    validate(experiment)
    return experiment


def _swept(overrides: Sequence[Override]) -> Override | None:
    """The first override with several values."""
    return next((override for override in overrides if override.is_sweep_override()), None)


def _base(overrides: Sequence[Override]) -> DictConfig:
    """The configuration that all jobs share."""
    base = _compose([override.input_line or "" for override in overrides if not override.is_sweep_override()])
    no_secret_in(OmegaConf.to_yaml(OmegaConf.masked_copy(base, [str(key) for key in base if key != "hydra"])), "conf/")
    return base


def _jobs(base: DictConfig, overrides: Sequence[Override]) -> Iterator[DictConfig]:
    """The composed configuration of each job of a sweep, expanded as Hydra's own sweeper does."""
    if not str(base.hydra.sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return  # another sweeper chooses the values as it goes: each job is validated when it starts
    try:
        jobs = expand_sweep([*_of_the_study(base), *overrides])
        if not jobs:
            raise HydraException("there are none")
    except (HydraException, OmegaConfBaseException) as error:  # an interval, say, or a glob(...) that matches nothing
        raise ConfigError(
            f"these values can't be swept: {str(error).splitlines()[0]}",
            given=" ".join(str(override.input_line) for override in overrides if override.is_sweep_override()),
            expected="values separated by commas, range(...) or glob(...)",
        ) from error
    yield from map(_compose, jobs)


def _of_the_study(base: DictConfig) -> list[Override]:
    """The overrides that the experiment's file sweeps."""
    return parse([f"{key}={values}" for key, values in (base.hydra.sweeper.get("params") or {}).items()])


def _sweep(base: DictConfig, overrides: Sequence[Override], num_jobs: int) -> Sweep:
    """The sweep. Raises ConfigError unless Hydra's launcher is `basic` or one of conf/hydra/launcher/."""
    _check_started_by_others(base, overrides, sweeps=True)
    folder: Any = OmegaConf.to_container(base.hydra.sweep, resolve=False)
    several = {each.key_or_group: each.is_sweep_override() for each in (*_of_the_study(base), *overrides)}
    return Sweep(
        folder=Path(base.hydra.sweep.dir),
        named=any(override.key_or_group == "hydra.sweep.dir" for override in overrides),
        pattern=FILLED_IN.sub("*", folder["dir"]),
        overrides=tuple(str(o.input_line) for o in overrides if not o.key_or_group.startswith("hydra")),
        resume=base.resume and not base.dry_run,
        num_jobs=num_jobs,
        varied=tuple(key for key, has_several in several.items() if has_several),
        elsewhere=_checked_launcher(base),
    )


def _checked_launcher(base: DictConfig) -> bool:
    """True if Hydra's launcher starts jobs in other processes. Raises ConfigError unless it is known to do that rightly.

    Parallel jobs would disturb each other's timings.
    """
    chosen, kind = base.hydra.runtime.choices["hydra/launcher"], str(base.hydra.launcher._target_)
    if kind.rpartition(".")[2] == "BasicLauncher":
        return False
    ours = options_of("hydra/launcher")
    if chosen not in ours:
        raise ConfigError(
            f"{kind.rpartition('.')[2]} starts jobs side by side or elsewhere, and a sweep runs one after the other",
            given=f"hydra/launcher={chosen}",
            expected=f"basic, or {' or '.join(ours)}: an allocation for each job",
            instead="hydra/launcher=basic",
        )
    try:
        import_module(kind.rpartition(".")[0])
    except ImportError as error:
        raise ConfigError(
            f"hydra/launcher={chosen} needs a package that isn't installed ({error})",
            given=f"hydra/launcher={chosen}",
            expected=f"pip install 'mfubench[{chosen}]'",
        ) from error
    return True


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose(CONFIG_NAME, list(overrides), return_hydra_config=True)
    except MissingConfigException as error:
        raise no_such_option(error) from error
    except YAMLError as error:
        raise not_yaml(error) from error
    except Exception as error:  # Hydra and OmegaConf fail on odd values in many ways
        raise rejected(error, overrides) from error
