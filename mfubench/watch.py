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
from dataclasses import fields
from datetime import datetime
from pathlib import Path

import yaml

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import compose_one
from mfubench.config.errors import key_of
from mfubench.files import secrets
from mfubench.files.terminal import begin_command
from mfubench.measure.status import LEAST_STEPS
from mfubench.plan.watched import nothing_asked

WATCH_COMMAND = "python -m mfubench.watch"
GROUPS_TO_SET = ("measurement", "hardware", "tracking")
SEEN = {"experiment", *(field.name for field in fields(Experiment) if field.name not in GROUPS_TO_SET)}
FOLDER = "hydra.run.dir"
EVERY_STEP = "measurement=whole"  # unless another one is named


def main(argv: Sequence[str] | None = None) -> int:
    """Watch the command that the command line names, print its table, and return the exit status."""
    begin_command()
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    settings, command = arguments[:end], arguments[end + 1 :]
    if not command and not {"-h", "--help"} & set(settings):
        print(_no_command(settings), file=sys.stderr)
        return 2
    given = _parser().parse_intermixed_args(settings)
    own = {key_of(each): each.partition("=")[2] for each in given.settings}
    folder = Path(own.get(FOLDER) or f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}").absolute()
    try:
        chosen = compose_settings(given.settings, given.steps)
        if shutil.which(command[0]) is None:
            raise ConfigError("there is no such program", given=command[0], expected="a command as you start it")
        return _watch(nothing_asked(chosen, own.get("name") or _name_of(command), command), folder, settings)
    except ConfigError as error:
        screen = error.screen([secrets.clean(each) for each in settings], WATCH_COMMAND)
        behind = "" if error.instead is None else " " + shlex.join(["--", *map(secrets.clean, command)])
        print(screen + behind, file=sys.stderr)
        return 2


def compose_settings(settings: Sequence[str], steps: int | None = None) -> Experiment:
    """Compose the settings; all steps are measured unless they say otherwise. Raises ConfigError for the command's own."""
    for each in settings:
        if key_of(each).partition(".")[0] in SEEN:
            expected = f"settings of {', '.join(GROUPS_TO_SET)}; name=NAME; {FOLDER}=FOLDER"
            raise ConfigError(f"{key_of(each)} is the command's own to set", given=each, expected=expected)
    every = [] if "measurement" in map(key_of, settings) else [EVERY_STEP]
    known = [each for each in settings if key_of(each) != "name"]
    return compose_one([*every, *known, *([] if steps is None else [f"measurement.steps={steps}"])])


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


def _watch(experiment: Experiment, folder: Path, settings: Sequence[str]) -> int:
    from rich.console import Console

    from mfubench.report.job_lines import after_all
    from mfubench.report.table import show
    from mfubench.run import watch
    from mfubench.tracking import log_or_warn

    console = Console(stderr=True)
    result = watch(experiment, folder, {"overrides.yaml": yaml.safe_dump(list(settings))}, Path.cwd(), console)
    log_or_warn(result, experiment.tracking, console)
    console.print()
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
