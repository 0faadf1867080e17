"""The words of a command line → Hydra's overrides; ConfigError for what is none, for what can't be set, and for secrets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mfubench.config.errors import ConfigError
from mfubench.config.hydra_errors import FREE_FORM
from mfubench.config.vocabulary import GROUPS, WITHOUT_OPTIONS
from mfubench.files import secrets


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides, each naming something that can be set. ConfigError."""
    parsed = read(overrides)
    for override in parsed:
        _names_a_setting(override)
        _tells_no_secret(override)
    return parsed


def read(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them. ConfigError."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        given = getattr(error, "override", None) or " ".join(overrides)
        raise ConfigError(
            "this is not an override", given=str(given), expected="setting=value", instead="batch_size=4"
        ) from error


def no_secret_in(text: str, what: str) -> None:
    """ConfigError where a text that a run's files would show has the value of a secret environment variable."""
    if (name := secrets.found_in(text)) is not None:
        raise ConfigError(
            f"{what} has the value of ${name}, and the run's files would show it",
            given=secrets.MASK,
            expected=f"no secret: what a run starts finds ${name} in its environment",
        )


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


def _tells_no_secret(override: Override) -> None:
    given = str(override.input_line)
    no_secret_in(given, override.key_or_group)
    value = given.partition("=")[2] if override.is_sweep_override() or override.is_delete() else override.value()
    if secrets.looks_secret(override.key_or_group, value):
        raise ConfigError(
            f"{override.key_or_group} looks like a secret, and the run's files would show it",
            given=f"{override.key_or_group}={secrets.MASK}",
            expected="a secret in an environment variable, which what a run starts inherits",
        )
