"""Parse a command line into Hydra's overrides; ConfigError for a malformed or impossible override, and for secrets."""

from __future__ import annotations

import os
import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from mfubench.config.defaults import options_of
from mfubench.config.errors import ConfigError, key_of, no_secret_in, quoted
from mfubench.config.hydra_errors import FREE_FORM, LISTS, TEXTS, known_settings, meant_by, no_such_setting
from mfubench.config.hydra_internal import read_flags
from mfubench.config.schema import ALL_LINEAR
from mfubench.config.vocabulary import GROUPS, WITHOUT_OPTIONS
from mfubench.files import secrets


def checked_flags(argv: Sequence[str]) -> Namespace:
    """Hydra's flags of `argv`, with `overrides`. Raises ConfigError for a flag that it doesn't have, or that excludes another."""
    flags, unknown = read_flags(argv)
    if unknown:
        name, is_set, value = unknown[0].partition("=")
        key = name.lstrip("-").replace("-", "_")
        raise ConfigError(
            f"there is no flag {name}",
            given=unknown[0],
            expected="a setting as key=value, or a flag such as --help, --cfg job or -m",
            instead=shlex.quote(f"{key}={value}") if is_set and key in known_settings() else None,
        )
    if flags.multirun and (flags.cfg or flags.info):
        raise ConfigError("-m runs jobs, --cfg and --info only print", given="-m", expected="one of them")
    return flags


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse the overrides, each of which must name a setting, while Hydra is initialised. Raises ConfigError."""
    try:
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    except HydraException as error:
        raise _no_override(getattr(error, "override", None) or " ".join(overrides)) from error
    for override in parsed:
        _names_a_setting(override)
        _tells_no_secret(override)
    return parsed


def _names_a_setting(override: Override) -> None:
    """Raise ConfigError unless the override sets one setting or chooses one option of a group.

    Hydra itself would overlay a list of a group's options, and fails on other values and on removed keys.
    """
    key, given = override.key_or_group, str(override.input_line)
    if override.is_delete() and not key.startswith(("hydra", *FREE_FORM)):
        raise ConfigError("a setting can't be removed", given=given, expected=f"{key}=value")
    if not key:
        raise _no_override(given)
    if not key.startswith(("hydra", "local", *FREE_FORM)) and key not in known_settings():
        raise no_such_setting(given)
    if key in WITHOUT_OPTIONS:
        switches = [f"{key}.{switch.name}" for switch in fields(GROUPS[key])]
        instead = f"{meant_by(key)[0]}={str(override.value()).lower()}" if isinstance(override.value(), bool) else None
        expected = f"one of {', '.join(switches)}"
        raise ConfigError(f"{key} is a group of settings", given=given, expected=expected, instead=instead)
    if key in (*GROUPS, "experiment") and not override.is_sweep_override() and not isinstance(override.value(), str):
        instead = f"-m {key}={given.partition('=')[2].strip('[]')}" if isinstance(override.value(), list) else None
        raise ConfigError(
            f"{key} is chosen by the name of one option",
            given=given,
            expected=f"one of {', '.join(options_of(key))}",
            instead=instead,
        )
    if key in LISTS:
        _is_a_list(override)


def _is_a_list(override: Override) -> None:
    """Raise ConfigError if the value, or one in a sweep, is a word; LoRA's targets may be a text that is no names."""
    key, value = override.key_or_group, override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    allowed = re.compile(r"\$.*|.*[^\w.,].*" if key in TEXTS else r"\$.*")
    if any(isinstance(each, str) and not allowed.fullmatch(each) for each in values):
        words, given = ",".join(map(str, values)), str(override.input_line)
        instead = shlex.quote(f"{key}=[{words}]") if re.fullmatch(r"[\w.]+(,[\w.]+)*", words) else None
        text = f", {ALL_LINEAR}, or a regular expression for whole names" if key in TEXTS else ""
        instead = f"{key}={ALL_LINEAR}" if text and words in ("all", "linear", "all_linear") else instead
        raise ConfigError(f"{key} is a list", given=given, expected=f"{key}=[one,two]{text}", instead=instead)


def _no_override(given: str) -> ConfigError:
    """The ConfigError for what Hydra's grammar doesn't allow: a text for want of quotes, maybe."""
    setting, is_set, value = given.partition("=")
    expected, instead = f"{setting if key_of(given) in known_settings() else 'setting'}=value", None
    if is_set and key_of(given) in LISTS and (key_of(given) not in TEXTS or value.startswith("[")):
        expected = f"{setting}=[one,two]"
    elif is_set and (key_of(given) in TEXTS or key_of(given).startswith(("hydra.", *FREE_FORM))):
        files = value.split(",")  # of a sweep, if all are there
        texts = files if all(map(os.path.exists, files)) else [value]
        expected, instead = f"{setting}=text, in quotes", shlex.quote(f"{setting}={','.join(map(quoted, texts))}")
    return ConfigError("this is not an override", given=given, expected=expected, instead=instead)


def _tells_no_secret(override: Override) -> None:
    given = str(override.input_line)
    no_secret_in(given, override.key_or_group)
    value = given.partition("=")[2] if override.is_sweep_override() or override.is_delete() else override.value()
    if secrets.looks_secret(override.key_or_group, value):
        raise ConfigError(
            f"{override.key_or_group} looks like a secret, and the run's files would show it",
            given=f"{override.key_or_group}={secrets.MASK}",
            expected="a secret in an environment variable, which a run's processes inherit",
        )
