"""Parse a command line into Hydra's overrides; ConfigError for a malformed or impossible override, and for secrets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mfubench.config.errors import ConfigError, no_secret_in
from mfubench.config.hydra_errors import FREE_FORM
from mfubench.config.vocabulary import GROUPS, WITHOUT_OPTIONS
from mfubench.files import secrets


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
    if key in WITHOUT_OPTIONS:
        switches = [f"{key}.{switch.name}" for switch in fields(GROUPS[key])]
        raise ConfigError(
            f"{key} is a group of settings",
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


def _no_override(given: str) -> ConfigError:
    return ConfigError("this is not an override", given=given, expected="setting=value", instead="batch_size=4")


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
