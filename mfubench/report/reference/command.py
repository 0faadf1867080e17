"""`python -m mfubench.reference [DIR]`: checks the reference results below DIR, by default outputs/reference/.

Each folder <hardware>/<study>/ has results and, in `command.txt`, the one command that makes them. Exit status: 0
nothing is wrong, 1 something is, or there is nothing in DIR.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfubench.config import Experiment
from mfubench.config.compose import check_command_line, flags_first, store_schema
from mfubench.config.errors import COMMAND
from mfubench.config.vocabulary import CHOSEN_OF_FRAMEWORK, OUTSIDE_THE_WORK
from mfubench.files.paths import ROOT
from mfubench.report.gather import MALFORMED, gather
from mfubench.report.reference.recompute import problems
from mfubench.result import find_results
from mfubench.result.flat import Scalar, leaves

REFERENCE_FOLDER = ROOT / "outputs" / "reference"
COMMAND_FILE = "command.txt"
Settings = frozenset[tuple[str, Scalar]]  # dotted name, value


@dataclass(frozen=True)
class Submission:
    """The results of one study on one kind of hardware."""

    num_results: int
    problems: tuple[str, ...]  # a sentence each, the file in front


def main(argv: Sequence[str] | None = None) -> int:
    """Check, and say what is wrong; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mfubench.reference", description="Check reference results.")
    parser.add_argument(
        "folder", metavar="DIR", nargs="?", type=Path, help="<hardware>/<study>, or above; default: all"
    )
    given = parser.parse_args(argv).folder
    root = (given or REFERENCE_FOLDER).resolve()
    folders = {path.parent for path in root.rglob(COMMAND_FILE)}
    results = find_results([root]) if root.is_dir() else ()
    folders |= {path.parent for path in results if not folders & {path.parent, *path.parents}}
    wrong = 0
    for folder in sorted(folders):
        checked = submission(folder)
        wrong += len(checked.problems)
        for problem in checked.problems:
            print(f"mfubench.reference: {problem}", file=sys.stderr)
        name = f"{folder.parent.name}/{folder.name}"
        print(f"{name}: {checked.num_results} result(s), {len(checked.problems)} problem(s)")
    if given and not folders:
        print(f"mfubench.reference: {given}: no command.txt and no result.json in or below it", file=sys.stderr)
    return 1 if wrong or (given and not folders) else 0


def submission(folder: Path) -> Submission:
    """Check the command of a folder, and that the results below it are right and those of the command's jobs."""
    file, paths = folder / COMMAND_FILE, list(find_results([folder]))
    try:
        jobs = _jobs(file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else "")
    except ValueError as error:
        return Submission(len(paths), (f"{file}: {error}",))
    found, lacking = list(gather([folder]).copies), dict(jobs)
    for path in paths:
        gathered = gather([path])
        found += gathered.complaints
        for result in gathered.results:
            try:
                settings = _settings(result.settings)
                if settings in lacking:
                    found += [f"{path}: {each}" for each in problems(result, lacking.pop(settings), folder.parent.name)]
                else:
                    found.append(f"{path}: the command doesn't ask for this run, or not again: {_own(settings, jobs)}")
            except MALFORMED as error:
                found.append(f"{path} is not a result of mfubench: {type(error).__name__}: {error}")
    if lacking:
        asked = "; ".join(_own(settings, jobs) for settings in lacking)
        found.append(f"{file}: the command asks for {len(lacking)} run(s) that are not there: {asked}")
    return Submission(len(paths), tuple(found))


def _jobs(command: str) -> dict[Settings, Experiment]:
    """Return the jobs of a command by their settings. Raises ValueError if it is missing or refused."""
    if not command.startswith(COMMAND) or "\n" in command:
        raise ValueError(f"it must hold the one command that made the results, such as {COMMAND} experiment=batch-size")
    jobs: list[Experiment] = []
    store_schema()
    try:
        check_command_line(flags_first(shlex.split(command.removeprefix(COMMAND))), jobs.append)
    except (ValueError, SystemExit) as error:  # argparse exits
        raise ValueError(f"the command is refused: {error}") from error
    return {_settings(asdict(job)): job for job in jobs}


def _settings(tree: Mapping[str, Any]) -> Settings:
    """Return the settings that any machine shares; of the framework's, those that the user chooses."""
    framework = {key: tree["framework"][key] for key in CHOSEN_OF_FRAMEWORK}
    return frozenset(leaves({**tree, **dict.fromkeys(OUTSIDE_THE_WORK), "framework": framework}))


def _own(settings: Settings, jobs: Mapping[Settings, Experiment]) -> str:
    """Write the settings that not all jobs have."""
    return " ".join(f"{key}={value}" for key, value in sorted(settings.difference(settings.intersection(*jobs))))
