"""A folder <hardware>/<study>/ in; out the results in it, and what is wrong with it and with them.

`command.txt` holds the one command that made the results, and that makes them again on hardware of the same name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import check_command_line, flags_first, store_schema
from mfubench.config.errors import COMMAND
from mfubench.config.vocabulary import CHOSEN_OF_FRAMEWORK, OUTSIDE_THE_WORK
from mfubench.hardware.catalogue import known_peaks
from mfubench.report.gather import MALFORMED, gather
from mfubench.report.reference.recompute import problems
from mfubench.result.flat import leaves
from mfubench.result.result_file import Result, UnreadableResult, find_results, read_result

COMMAND_FILE = "command.txt"


@dataclass(frozen=True)
class Submission:
    """The results of one study on one kind of hardware."""

    folder: Path
    command: str
    results: tuple[Result, ...]
    problems: tuple[str, ...]  # a sentence each, the file in front

    @property
    def name(self) -> str:
        """hardware/study."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def submissions(root: Path) -> Iterator[Submission]:
    """Yield each folder at or below `root` that has a command or results, in the order of names."""
    if not root.is_dir():
        return
    commands = {path.parent for path in root.rglob(COMMAND_FILE)}
    alone = {path.parent for path in find_results([root]) if not commands & {path.parent, *path.parents}}
    for folder in sorted(commands | alone):
        yield submission(folder)


def submission(folder: Path) -> Submission:
    """Read and check the results in a folder."""
    found: list[str] = []
    runs: list[dict[str, Any]] = []
    for path in find_results([folder]):
        try:
            result = read_result(path)
            found += [f"{path}: {problem}" for problem in _problems_of(result, folder)]
            runs.append(_asked(result.settings))
        except UnreadableResult as error:
            found.append(str(error))
        except MALFORMED as error:
            found.append(f"{path} is not a result of mfubench: {type(error).__name__}: {error}")
    readable = gather([folder])
    found += [complaint for complaint in (*readable.complaints, *readable.copies) if complaint not in found]
    file = folder / COMMAND_FILE
    command = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    found += [f"{file}: {problem}" for problem in _wrong_command(command, runs)]
    return Submission(folder, command, readable.results, tuple(found))


def _problems_of(result: Result, folder: Path) -> Iterator[str]:
    hardware = asdict(result.hardware) if result.hardware else {}
    if hardware:
        option = known_peaks(hardware["device_name"])
        name = "cpu" if hardware["device"] == "cpu" else option.name if option else None
        if name != folder.parent.name:
            yield f"it is of {hardware['device_name']}, which belongs into {name}/, not {folder.parent.name}/"
    yield from problems(result)


def _wrong_command(command: str, here: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the problems of the command: missing, refused, or asking for other runs than those present."""
    if not command.startswith(COMMAND) or "\n" in command:
        yield f"it must hold the one command that made the results, such as {COMMAND} experiment=batch-size"
        return
    asked: list[Experiment] = []
    store_schema()
    try:
        check_command_line(flags_first(shlex.split(command.removeprefix(COMMAND))), asked.append)
    except (ConfigError, ValueError) as error:
        yield f"the command is refused: {error}"
        return
    jobs = [_asked(json.loads(json.dumps(asdict(job)))) for job in asked]
    flat = [dict(leaves(run)) for run in (*jobs, *here)]
    keys = dict.fromkeys(key for run in flat for key in run)
    varying = [key for key in keys if len({repr(run.get(key)) for run in flat}) > 1]
    lacking = [_settings_text(job, varying) for job in jobs if job not in here]
    strange = [_settings_text(run, varying) for run in here if run not in jobs]
    if lacking:
        yield f"the command asks for {len(lacking)} run(s) that are not there: {'; '.join(lacking)}"
    if strange:
        yield f"there are {len(strange)} result(s) that the command doesn't ask for: {'; '.join(strange)}"
    if not lacking and not strange and len(here) != len(jobs):
        yield f"there are {len(here)} results of the {len(jobs)} run(s) that the command asks for"


def _asked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that any machine shares; of the framework's, those that the user chooses."""
    framework = {key: settings["framework"][key] for key in CHOSEN_OF_FRAMEWORK}
    return {key: value for key, value in settings.items() if key not in OUTSIDE_THE_WORK} | {"framework": framework}


def _settings_text(run: Mapping[str, Any], keys: Sequence[str]) -> str:
    own = dict(leaves(run))
    return " ".join(f"{key}={own.get(key)}" for key in keys) or "the settings of all"
