"""Turn an error of Hydra or OmegaConf into a ConfigError with the nearest valid setting or option."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml
from hydra import compose
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mfubench.config import schema
from mfubench.config.defaults import options_of
from mfubench.config.errors import ConfigError, key_of, nearest, quoted
from mfubench.config.vocabulary import GROUPS
from mfubench.files.paths import CONF

CONFIG_NAME = "config"
LOCAL_DEFAULTS = CONF / "local" / "default.yaml"
SYNONYMS = CONF / "synonyms.yaml"
LIKENESS = 0.75  # of a name that is taken for another's misspelling, as difflib measures it


def _of_type(kind: str | tuple[str, ...]) -> tuple[str, ...]:
    """Settings of the groups whose values are of this type."""
    groups = GROUPS.items()
    return tuple(f"{group}.{f.name}" for group, of in groups for f in fields(of) if str(f.type).startswith(kind))


LISTS, TEXTS = _of_type(("list", "Targets")), _of_type(("str", "Targets"))
MAPPINGS = _of_type("dict")
FREE_FORM = tuple(f"{name}." for name in MAPPINGS)  # beginnings of keys below a mapping: Hydra's + adds any


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
    longer = [name for name in options if name.startswith(option)]
    best = nearest(option, options) if len(longer) < 2 else []  # one of several would be a guess
    return ConfigError(
        f"{group or 'this group'} has no option {option!r}",
        given=f"{group}={option}",
        expected="one of " + ", ".join(sorted(options if best or not longer else longer)),
        instead=f"{group}={best[0]}" if best else None,
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
        return no_such_setting(given, full_key)
    if given.startswith("+") and key_of(given) in known_settings():
        problem, instead = f"{key_of(given)} is there already", shlex.quote(given.lstrip("+"))
        return ConfigError(problem, given=given, expected="no +, which adds a new key", instead=instead)
    key, value = key_of(given), given.partition("=")[2]
    problem = f"{key or full_key or 'a setting'} can't take this value"
    if key in TEXTS and value[:1] in ("[", "{"):
        instead = shlex.quote(f"{key}={quoted(value)}")
        return ConfigError(problem, given=given, expected="one text, in quotes", instead=instead)
    expected = (str(cause) or type(cause).__name__).splitlines()[0]
    return ConfigError(problem, given=given, expected=expected, instead=_default_of(key))


def no_such_setting(given: str, new: str = "") -> ConfigError:
    """The ConfigError for a key that no dataclass and no YAML has: the key of `given`, or `new` in its value."""
    key, value = new or key_of(given), given.partition("=")[2]
    if key.startswith(FREE_FORM):
        problem, added = f"{key!r} is not in its YAML", shlex.quote(f"+{given}")
        return ConfigError(problem, given=given, expected="+ in front of a new key", instead=added)
    best, group = meant_by(key), key.partition(".")[0]
    options = options_of(best[0]) if best else []
    right = len(best) == 1 and (not options or {*value.split(",")} <= {*options})
    if options and not right:
        expected = f"{best[0]} by name, one of {', '.join(options)}"
    elif best:
        expected = f"a setting of mfubench, such as {', '.join(best)}"
    elif group in GROUPS:
        expected = "one of " + ", ".join(f"{group}.{f.name}" for f in fields(GROUPS[group]) if f.name != "name")
    else:
        expected = "a setting of mfubench (--help), or a framework's own by its key: +framework.native.KEY=VALUE"
    instead = shlex.quote(f"{best[0]}={value}") if right else None
    return ConfigError(f"there is no setting {key!r}", given=given, expected=expected, instead=instead)


def meant_by(key: str) -> list[str]:
    """Settings that a key which is none may stand for: of that beginning, synonym, last word or spelling; [] if none does."""
    known, (*path, word) = known_settings(), key.split(".")
    mappings = nearest(f"{'.'.join(path[:2])}.", FREE_FORM, LIKENESS)[:1] if len(path) > 1 else []
    synonyms = yaml.safe_load(SYNONYMS.read_text(encoding="utf-8"))
    architecture = [f"model.architecture.{word}"] if word in _architecture_keys() else []
    return (
        [f"+{mapping}{'.'.join([*path[2:], word])}" for mapping in mappings]
        or [name for name, others in synonyms.items() if word in others]
        or architecture
        or [name for name in known if name.rpartition(".")[2] == word != "name"]
        or nearest(key, known, LIKENESS)[:1]
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
    return None if value is None or OmegaConf.is_config(value) else shlex.quote(f"{key}={value}")
