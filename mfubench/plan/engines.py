"""Choose a framework's engine: the first whose probe command exits with 0. Check that what a run needs is installed.

An engine is one way of starting a framework from the same native config: its own program if that is installed, else an
open reimplementation. The engine that ran is part of every result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path

from mfubench.config import ConfigError, Engine, Framework
from mfubench.config.defaults import extras

HAS_MODULE = "import sys; from importlib.util import find_spec; sys.exit(find_spec(sys.argv[1]) is None)"
OUR_PLACES = ("${run.python}", "${run.bin}")  # of programs that run in the interpreter of `framework.python`
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


def check_installed(framework: Framework, root: Path, with_: Collection[str] = ()) -> None:
    """Raise NotInstalled if the framework's own environment is missing or was not installed to the end.

    `with_`: packages of conf/extras.toml to be installed with it; those that come with no framework are named.
    """
    if framework.python is None:
        return
    python = root / framework.python
    ours = not Path(framework.python).is_absolute()  # one of the user's own has no mark of ours
    if not python.is_file() or (ours and not (python.parent.parent / INSTALLED).is_file()):
        built = " ".join(f"--with {package}" for package in with_ if "build" in extras()[package])
        command = f"launchers/install {framework.name} {built}".rstrip()
        raise NotInstalled(f"{framework.name} is not installed here (no {framework.python}): {command}")


def check_extras(framework: Framework, needed: Mapping[str, str], root: Path, responds: Responds) -> None:
    """Raise NotInstalled if the framework's interpreter doesn't find a package that a setting needs.

    An engine's program from elsewhere has an interpreter of its own, which isn't asked.

    Args:
        framework: with the command of the engine that runs.
        needed: package of conf/extras.toml → the setting that needs it.
        root: of the project.
        responds: True for a command that exits with 0.
    """
    if not str((framework.command or [""])[0]).startswith(OUR_PLACES):
        return
    python = sys.executable if framework.python is None else str(root / framework.python)
    lacking = [name for name in needed if not responds((python, "-c", HAS_MODULE, extras()[name]["module"]))]
    if not lacking:
        return
    settings = ", ".join(dict.fromkeys(needed[name] for name in lacking))
    if framework.python is not None and Path(framework.python).is_absolute():
        requirements = " ".join(f"'{extras()[name]['requirement']}'" for name in lacking)
        command = f"{framework.python} -m pip install {requirements}"
    else:
        flags = " ".join(f"--with {name}" for name in lacking)
        command = f"python launchers/install {framework.name} {flags}"
    instead = " ".join(extras()[name]["instead"] for name in lacking)
    raise NotInstalled(
        f"{settings} needs {', '.join(lacking)}, which the environment of {framework.name} lacks: {command};"
        f" or, for the whole sweep, {instead}"
    )


def label(framework: str, engine: str | None) -> str:
    """Return the name shown to readers: the framework's, with the engine in brackets unless it is the framework's own program."""
    return framework if engine in (None, framework) else f"{framework} ({engine.replace('-', ' ')})"
