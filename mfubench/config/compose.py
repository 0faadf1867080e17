"""Command line and conf/ in, Experiments out: stores the schema with Hydra, composes each job ahead of any start.

What Hydra would report as its own exception becomes a ConfigError that names the nearest valid setting or option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from mfubench.config import schema
from mfubench.config.errors import ConfigError, WrongCombination, key_of, nearest
from mfubench.config.validate import validate
from mfubench.paths import CONF

CONFIG_NAME = "config"
LOCAL_DEFAULTS = CONF / "local" / "default.yaml"
FREE_FORM = (
    "framework.native.",
    "framework.base.",
    "framework.when.",
    "framework.environment.",
    "model.architecture.",
    "hardware.peaks.",
    "parallelism.deepspeed.",
    "parallelism.fsdp.",
)
GROUPS: dict[str, Any] = {name: kind for name, kind in get_type_hints(schema.Experiment).items() if is_dataclass(kind)}
WITHOUT_OPTIONS = ("liger",)  # typed like a group, and all its values stand in config.yaml


def store_schema() -> None:
    """Give Hydra the types. Frozen dataclasses compose as read-only nodes, so that is lifted until the values are in."""
    node = OmegaConf.structured(schema.Experiment)
    OmegaConf.set_readonly(node, None)
    for group in GROUPS:
        OmegaConf.set_readonly(node._get_node(group), None)
    ConfigStore.instance().store(name="schema", node=node)


def to_experiment(composed: DictConfig) -> schema.Experiment:
    """The composed configuration as an Experiment; ConfigError for keys added to it and for values that are missing.
    The framework's part stays unresolved: its ${...} name things that only the plan knows."""
    try:
        content: dict[Any, Any] = {name: composed[name] for name in composed if name != "hydra"}
        _no_additions("", content, schema.Experiment)
        for name, group in GROUPS.items():
            values: Any = OmegaConf.to_container(composed[name], resolve=name != "framework", throw_on_missing=True)
            _no_additions(f"{name}.", values, group)
            content[name] = group(**values)
        return schema.Experiment(**content)
    except OmegaConfBaseException as error:
        raise ConfigError(
            "a setting has no value", given=str(error).splitlines()[0], expected=f"every group to be chosen in {CONF}"
        ) from error


def flags_first(argv: Sequence[str]) -> list[str]:
    """`argv` with -m in front: Hydra's parser takes no overrides before a flag and after it."""
    return sorted(argv, key=lambda argument: argument not in ("-m", "--multirun"))


def check_command_line(argv: Sequence[str], check: Callable[[schema.Experiment], None] = validate) -> None:
    """Compose and `check` every job that `argv` asks for, so that what is wrong on any machine stops all of them.

    A combination that is wrong inside a sweep is left to its own job. ConfigError: the one screen for the user.
    """
    arguments = get_args_parser().parse_args(list(argv))
    asked_for_text = arguments.help or arguments.hydra_help or arguments.cfg or arguments.info
    if asked_for_text or arguments.shell_completion or arguments.config_dir or arguments.config_path:
        return
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for composed, sweeping in _jobs(arguments.overrides, arguments.multirun):
            try:
                check(to_experiment(composed))
            except WrongCombination:
                if not sweeping:
                    raise


def compose_one(overrides: Sequence[str]) -> schema.Experiment:
    """The one Experiment that `overrides` of the defaults make up, validated. ConfigError: the one screen for the user."""
    store_schema()
    for override in _parse(overrides):
        if override.is_sweep_override():
            key, discrete = override.get_key_element(), override.is_discrete_sweep()
            raise ConfigError(
                f"{key} has several values, and this is about one workload",
                given=str(override.input_line),
                expected="one value",
                instead=f"{key}={next(iter(override.sweep_string_iterator()))}" if discrete else None,
            )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        ((composed, _),) = _jobs(overrides, multirun=False)
        experiment = to_experiment(composed)
    validate(experiment)
    return experiment


def _jobs(overrides: Sequence[str], multirun: bool) -> Iterator[tuple[DictConfig, bool]]:
    """The composed configuration of each job, expanded as Hydra's own sweeper does, and whether it is one of a sweep."""
    parsed = _parse(overrides)
    for override in parsed:
        _names_a_setting(override)
    swept = [o for o in parsed if o.is_sweep_override()]
    base = _compose([o.input_line or "" for o in parsed if not o.is_sweep_override()])
    if not multirun and base.hydra.mode != RunMode.MULTIRUN:
        if swept:
            raise ConfigError(
                f"{swept[0].get_key_element()} has several values, and this is one run",
                given=str(swept[0].input_line),
                expected="one value, or -m for a sweep over all of them",
                instead=f"-m {swept[0].input_line}",
            )
        yield base, False
        return
    if not str(base.hydra.sweeper.get("_target_", "")).endswith("BasicSweeper"):
        return  # another sweeper chooses the values as it goes: each job is validated when it comes
    parameters = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items()]
    for batch in BasicSweeper.split_arguments(_parse([*parameters, *overrides]), max_batch_size=None):
        yield from ((_compose(job), True) for job in batch)


def _names_a_setting(override: Override) -> None:
    """Hydra takes a list of a group's options, lays them over each other, and dies of other values and of removed keys."""
    key, given = override.key_or_group, str(override.input_line)
    if override.is_delete() and not key.startswith(("hydra", *FREE_FORM)):
        raise ConfigError("a setting can't be removed", given=given, expected=f"{key}=value")
    if not key:
        raise ConfigError("this is not an override", given=given, expected="setting=value", instead="batch_size=4")
    if key in WITHOUT_OPTIONS:
        switches = [f"{key}.{switch.name}" for switch in fields(GROUPS[key])]
        raise ConfigError(
            f"{key} is several settings",
            given=given,
            expected=f"one of {', '.join(switches)}",
            instead=f"{switches[0]}={given.partition('=')[2] or 'true'}",
        )
    if key in (*GROUPS, "experiment") and not override.is_sweep_override() and not isinstance(override.value(), str):
        instead = f"-m {key}={given.partition('=')[2].strip('[]')}" if isinstance(override.value(), list) else None
        raise ConfigError(
            f"{key} is chosen by the name of one option",
            given=given,
            expected=f"{key}=NAME; --help lists them",
            instead=instead,
        )


def _no_additions(prefix: str, values: Mapping[Any, Any], kind: type) -> None:
    """Hydra's + adds any key to a group; what no dataclass has would be ignored, so it is refused."""
    added = sorted(map(str, values.keys() - {f.name for f in fields(kind)}))
    if added:
        raise _no_such_setting(f"+{prefix}{added[0]}={values.get(added[0])}")


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        given = getattr(error, "override", None) or " ".join(overrides)
        raise ConfigError(
            "this is not an override", given=str(given), expected="setting=value", instead="batch_size=4"
        ) from error


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose(CONFIG_NAME, list(overrides), return_hydra_config=True)
    except MissingConfigException as error:
        raise _no_such_option(error) from error
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f"{where.name}, line {where.line + 1}" if where else "a file in conf/"
        given = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{place} is not YAML", given=given, expected="key: value") from error
    except (ConfigCompositionException, OmegaConfBaseException) as error:
        raise _rejected(error, overrides) from error


def _no_such_option(error: MissingConfigException) -> ConfigError:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if group.startswith("local/"):
        return _wrong_local_defaults(f"{group.removeprefix('local/')}: {option} under `defaults:`")
    best = nearest(option, options)
    return ConfigError(
        f"{group or 'this group'} has no option {option!r}",
        given=f"{group}={option}",
        expected="one of " + ", ".join(sorted(options)),
        instead=f"{group}={best[0]}" if best else f"{group}={sorted(options)[0]}" if options else None,
    )


def _wrong_local_defaults(given: str) -> ConfigError:
    return ConfigError(
        f"{LOCAL_DEFAULTS} doesn't fit conf/config.yaml",
        given=given,
        expected="its settings; another option of a group goes under `defaults:`, as `- override /mode: lora`",
    )


def _rejected(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """ConfigError for what Hydra or OmegaConf would not merge: an unknown key, or a value of the wrong type."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if "In 'local/default'" in str(error):
        return _wrong_local_defaults(str(error).partition("\n")[2].partition("\n")[0])
    full_key = str(getattr(cause, "full_key", None) or "")
    given = next((o for o in overrides if key_of(o) in (full_key, str(error).rpartition(" '")[2].rstrip("'.\n"))), None)
    named = [o for o in overrides if key_of(o) in str(error)]
    given = given or max(named, key=lambda o: len(key_of(o)), default=full_key)
    if "Could not override" in str(error) or isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _no_such_setting(given)
    return ConfigError(
        f"{key_of(given) or full_key or 'a setting'} can't take this value",
        given=given,
        expected=str(cause).splitlines()[0],
        instead=_default_of(key_of(given)),
    )


def _no_such_setting(given: str) -> ConfigError:
    key, value = key_of(given), given.partition("=")[2]
    if key.startswith(FREE_FORM):
        return ConfigError(
            f"{key!r} is not in its YAML",
            given=given,
            expected="+ in front of a key that is new",
            instead=f"+{given}",
        )
    valid = _known_settings()
    best = [] if key.startswith("hydra") else nearest(key, valid) or nearest(key.rpartition(".")[2], valid)
    return ConfigError(
        f"there is no setting {key!r}",
        given=given,
        expected="a setting of mfubench" + (f", such as {', '.join(best)}" if best else "; --cfg job prints all"),
        instead=f"{best[0]}={value}" if best else None,
    )


def _known_settings() -> list[str]:
    """Every key that may stand on the command line, dotted."""
    known: list[str] = []
    for f in fields(schema.Experiment):
        known.append(f.name)
        if f.name in GROUPS:
            known += [f"{f.name}.{inner.name}" for inner in fields(GROUPS[f.name])]
    return [*known, "experiment"]


def _default_of(key: str) -> str | None:
    value = OmegaConf.select(compose(CONFIG_NAME), key) if key in _known_settings() else None
    return None if value is None or OmegaConf.is_config(value) else f"{key}={value}"
