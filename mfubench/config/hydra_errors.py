"""Turn an error of Hydra or OmegaConf into a ConfigError with the nearest valid setting or option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml
from hydra import compose
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mfubench.config import schema
from mfubench.config.errors import ConfigError, key_of, nearest
from mfubench.config.vocabulary import GROUPS
from mfubench.files.paths import CONF

CONFIG_NAME = "config"
LOCAL_DEFAULTS = CONF / "local" / "default.yaml"
# Beginnings of keys below a setting that is a mapping: Hydra's + adds any.
FREE_FORM = tuple(
    f"{group}.{field.name}."
    for group, kind in GROUPS.items()
    for field in fields(kind)
    if str(field.type).startswith("dict")
)
# Usual names of settings that mfubench leaves to the framework: the nearest setting of ours is no way out.
TRAINING_WORDS = ("lr", "learning_rate", "epochs", "num_epochs", "num_train_epochs", "weight_decay", "warmup_ratio")


def no_additions(prefix: str, values: Mapping[Any, Any], kind: type) -> None:
    """Refuse keys that `kind` doesn't have: Hydra's + adds any key to a group, and it would be ignored."""
    added = sorted(map(str, values.keys() - {f.name for f in fields(kind)}))
    if added:
        raise no_such_setting(f"+{prefix}{added[0]}={values.get(added[0])}")


def not_yaml(error: yaml.YAMLError) -> ConfigError:
    """The ConfigError for a file in conf/ that can't be read."""
    where = getattr(error, "problem_mark", None)
    place = f"{where.name}, line {where.line + 1}" if where else "a file in conf/"
    given = getattr(error, "problem", None) or str(error)
    return ConfigError(f"{place} is not valid YAML", given=given, expected="key: value")


def no_such_option(error: MissingConfigException) -> ConfigError:
    """The ConfigError for an option that has no file in conf/."""
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


def rejected(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """The ConfigError for an override that Hydra or OmegaConf can't merge: an unknown key, or a value of the wrong type."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if "In 'local/default'" in str(error):
        return _wrong_local_defaults(str(error).partition("\n")[2].partition("\n")[0])
    full_key = str(getattr(cause, "full_key", None) or "")
    given = next((o for o in overrides if key_of(o) in (full_key, str(error).rpartition(" '")[2].rstrip("'.\n"))), None)
    named = [o for o in overrides if key_of(o) in str(error)]
    given = given or max(named, key=lambda o: len(key_of(o)), default=full_key) or " ".join(overrides)
    if "Could not override" in str(error) or isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return no_such_setting(given)
    return ConfigError(
        f"{key_of(given) or full_key or 'a setting'} can't take this value",
        given=given,
        expected=(str(cause) or type(cause).__name__).splitlines()[0],
        instead=_default_of(key_of(given)),
    )


def no_such_setting(given: str) -> ConfigError:
    """The ConfigError for a key that no dataclass and no YAML has."""
    key, value = key_of(given), given.partition("=")[2]
    if key.startswith(FREE_FORM):
        expected = "+ in front of a new key"
        return ConfigError(f"{key!r} is not in its YAML", given=given, expected=expected, instead=f"+{given}")
    valid, word, more = known_settings(), key.rpartition(".")[2], "--cfg job prints all"
    best: list[str] = []
    if word in TRAINING_WORDS:
        more = "a framework's own goes in by its key there, as +framework.native.KEY=VALUE"
    elif word in _architecture_keys():
        best = [f"model.architecture.{word}"]
    elif not key.startswith("hydra"):
        best = nearest(key, valid) or nearest(word, valid)
    return ConfigError(
        f"there is no setting {key!r}",
        given=given,
        expected="a setting of mfubench" + (f", such as {', '.join(best)}" if best else f"; {more}"),
        instead=f"{best[0]}={value}" if best else None,
    )


def known_settings() -> list[str]:
    """Every key that may stand on the command line, dotted."""
    top = [setting.name for setting in fields(schema.Experiment)]
    return [*top, *(f"{group}.{inner.name}" for group, kind in GROUPS.items() for inner in fields(kind)), "experiment"]


def _architecture_keys() -> set[str]:
    """The keys of all models in conf/."""
    models = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CONF / "model").glob("*.yaml"))
    return {str(key) for model in models for key in model.get("architecture") or {}}


def _default_of(key: str) -> str | None:
    value = OmegaConf.select(compose(CONFIG_NAME), key) if key in known_settings() else None
    return None if value is None or OmegaConf.is_config(value) else f"{key}={value}"
