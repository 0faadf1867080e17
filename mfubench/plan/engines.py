"""Choose a framework's engine: the first whose probe command exits with 0.

An engine is one way of starting a framework from the same native config: its own program if that is installed, else an
open reimplementation. The engine that ran is part of every result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from mfubench.config import ConfigError, Engine, Framework

INSTALLED = "installed"  # what launchers/install leaves in an environment when all of it is there
Responds = Callable[[tuple[str, ...]], bool]  # a command -> True if its program exits with 0


class NotInstalled(Exception):
    """The engine asked for, or every engine of the framework, is missing here. The message says what was tried."""


def engines_of(framework: Framework) -> list[Engine]:
    """Return the framework's engines, the preferred one first; none if it has a `command`. Raises ConfigError."""
    known = {field.name for field in fields(Engine)}
    for entry in framework.engines or []:
        if set(entry) != known:
            raise ConfigError(
                f"conf/framework/{framework.name}.yaml: an engine that is not complete",
                given=f"engines: {', '.join(map(str, entry))}",
                expected=", ".join(sorted(known)),
            )
    return [Engine(**entry) for entry in framework.engines or []]


def choose(framework: Framework, responds: Responds) -> tuple[Framework, str | None]:
    """Return the framework with the command of its first engine that responds, and that engine's name.

    `framework.engine` restricts the choice to one. A framework without engines is returned as it is, and None as the name.
    Raises NotInstalled if no engine responds.
    """
    engines = engines_of(framework)
    if not engines:
        return framework, None
    wanted = [engine for engine in engines if framework.engine in (None, engine.name)]
    for engine in wanted:
        if engine.probe is None or responds(tuple(map(str, engine.probe))):
            return replace(framework, command=engine.command), engine.name
    tried = "; ".join(f"{engine.name}: `{' '.join(map(str, engine.probe or []))}` did not answer" for engine in wanted)
    others = [engine.name for engine in engines if engine not in wanted]
    way_out = f" (framework.engine={others[0]} is another way)" if others else ""
    raise NotInstalled(f"{framework.name} is not installed here: {tried}{way_out}")


def check_installed(framework: Framework, root: Path) -> None:
    """Raise NotInstalled if the framework's own environment is missing or was not installed to the end."""
    if framework.python is None:
        return
    python = root / framework.python
    ours = not Path(framework.python).is_absolute()  # one of the user's own has no mark of ours
    if not python.is_file() or (ours and not (python.parent.parent / INSTALLED).is_file()):
        raise NotInstalled(
            f"{framework.name} is not installed here (no {framework.python}): launchers/install {framework.name}"
        )


def label(framework: str, engine: str | None) -> str:
    """Return the name shown to readers: the framework's, with the engine in brackets unless it is the framework's own program."""
    return framework if engine in (None, framework) else f"{framework} ({engine.replace('-', ' ')})"
