"""`python -m mfubench.watch [settings] -- COMMAND`: measure your own training command, unchanged, while it runs as ever.

The model, what is trained and how, and the shapes are those seen in its processes. It runs in this folder, with your
environment and terminal; the table comes on standard error when it has ended.
Exit status: that of the command if it failed by itself; else 0 if its run is ok and 3 if not; 2 the command line is wrong,
and nothing was started.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import yaml

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import compose_one
from mfubench.config.errors import key_of
from mfubench.files import secrets
from mfubench.measure.status import LEAST_STEPS

WATCH_COMMAND = "python -m mfubench.watch"
GROUPS_TO_SET = ("measurement", "hardware", "tracking")
EVERY_STEP = "measurement=whole"  # unless another one is named


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    experiment: Experiment
    name: str
    command: tuple[str, ...]
    folder: Path  # of the run
    overrides: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Watch the command that the command line names, print its table, and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    settings, command = arguments[:end], arguments[end + 1 :]
    if not command and not {"-h", "--help"} & set(settings):
        print(_no_command(settings), file=sys.stderr)
        return 2
    given = _parser().parse_intermixed_args(settings)
    try:
        return _watch(read(given.settings, given.steps, command))
    except ConfigError as error:
        screen = error.screen([secrets.clean(each) for each in settings], WATCH_COMMAND)
        behind = "" if error.instead is None else " " + shlex.join(["--", *map(secrets.clean, command)])
        print(screen + behind, file=sys.stderr)
        return 2


def read(settings: Sequence[str], steps: int | None, command: Sequence[str]) -> Asked:
    """Compose the settings for a command. Raises ConfigError for what can't be set, and for a program that isn't there."""
    if shutil.which(command[0]) is None:
        raise ConfigError("there is no such program", given=command[0], expected="a command as you start it behind --")
    for each in settings:
        if key_of(each).partition(".")[0] not in (*GROUPS_TO_SET, "name") and key_of(each) != "hydra.run.dir":
            expected = f"settings of {', '.join(GROUPS_TO_SET)}; name=NAME; hydra.run.dir=FOLDER"
            raise ConfigError(f"{key_of(each)} is the command's own to set", given=each, expected=expected)
    own = {key_of(each): each.partition("=")[2] for each in settings}
    overrides = [each for each in settings if key_of(each) != "name"]
    overrides += [] if steps is None else [f"measurement.steps={steps}"]
    experiment = compose_one([*([] if "measurement" in own else [EVERY_STEP]), *overrides])
    folder = Path(own.get("hydra.run.dir") or f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}")
    return Asked(experiment, own.get("name") or _name_of(command), tuple(command), folder.absolute(), tuple(settings))


def _no_command(settings: Sequence[str]) -> str:
    """The screen for a command line with no command behind --; the first word that is no setting begins it, if there is one."""
    words = (i for i, each in enumerate(settings) if "=" not in each and "--steps" not in (each, settings[i - 1]))
    begin = next(words, len(settings))
    right = [*settings[:begin], "--", *(settings[begin:] or ["python", "train.py"])]
    lines = ("mfubench: there is no command to watch", "  expected  it behind --, as you start it")
    return "\n".join([*lines, f"  try       {WATCH_COMMAND} {secrets.clean(shlex.join(right))}"])


def _name_of(command: Sequence[str]) -> str:
    """Return the name of the script in a command, or of the module behind -m, or of the program."""
    scripts = [Path(word).stem for word in command if word.endswith(".py")]
    modules = [command[i + 1] for i, word in enumerate(command[:-1]) if word == "-m"]
    return next(iter([*scripts, *modules]), Path(command[0]).name)


def _watch(asked: Asked) -> int:
    from rich.console import Console

    from mfubench.plan.watched import nothing_asked
    from mfubench.report.job_lines import after_all
    from mfubench.report.table import show
    from mfubench.run import watch
    from mfubench.tracking import log_or_warn

    console, experiment = Console(stderr=True), nothing_asked(asked.experiment, asked.name, asked.command)
    composed = {"overrides.yaml": yaml.safe_dump(list(asked.overrides))}
    result = watch(experiment, asked.folder, composed, Path.cwd(), console)
    log_or_warn(result, experiment.tracking, console)
    print(file=sys.stderr)
    show([result], console)
    print("", *after_all([result], Path(result.provenance.folder)), sep="\n", file=sys.stderr)
    outcome = result.outcome
    if outcome is not None and outcome.ended == "itself" and outcome.returncode:
        return outcome.returncode if outcome.returncode > 0 else 128 - outcome.returncode
    return 0 if result.status == "ok" else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=WATCH_COMMAND,
        usage="%(prog)s [setting=value ...] [--steps N] -- COMMAND",
        description="Measure your own training command, unchanged.",
    )
    parser.add_argument(
        "settings", metavar="setting=value", nargs="*", help="of measurement, hardware and tracking; name=NAME"
    )
    parser.add_argument(
        "--steps", metavar="N", type=_steps, help="end the command after N measured steps; default: when it ends"
    )
    return parser


def _steps(text: str) -> int:
    if (steps := int(text)) < LEAST_STEPS:
        raise argparse.ArgumentTypeError(f"{text} is too few for a mean; at least {LEAST_STEPS}")
    return steps


if __name__ == "__main__":
    sys.exit(main())
