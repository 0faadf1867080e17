"""The command: `python -m mfubench.tracking DIR...` uploads results (again); `--workspace` saves a view that compares them.

Exit status: 0 all are there, or WANDB_MODE is disabled; 1 not all, or no workspace; 2 there is no result.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from mfubench.config import Tracking
from mfubench.files.terminal import begin_command
from mfubench.result import Result, UnreadableResult, find_results, read_result
from mfubench.result.result_file import FILE_NAME
from mfubench.tracking.client import NotBegun
from mfubench.tracking.upload import Logged, log, why
from mfubench.tracking.workspace import save


def main(argv: Sequence[str] | None = None) -> int:
    """Upload every result in or below the folders, a line for each."""
    begin_command()
    parser = argparse.ArgumentParser(
        prog="python -m mfubench.tracking",
        description="Upload results to W&B. A result that is there already stays one run.",
    )
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", type=Path, help="a run's folder, or one with runs below it"
    )
    parser.add_argument("--mode", choices=("online", "offline"), help="default: $WANDB_MODE, or online")
    parser.add_argument("--project", help="default: the run's tracking.project, $WANDB_PROJECT or mfubench")
    parser.add_argument("--entity", help="user or team; default: the one that the run was started with")
    parser.add_argument("--workspace", action="store_true", help="save a workspace that compares these runs, too")
    parser.add_argument("--name", help="of the workspace; one of this name is replaced; default: the folders' names")
    given = parser.parse_args(argv)
    mode = given.mode or os.environ.get("WANDB_MODE") or "online"
    if mode == "disabled":
        print("mfubench.tracking: WANDB_MODE is disabled, so nothing is uploaded; --mode online would")
        return 0
    if given.workspace and mode == "offline":
        parser.error("--workspace needs runs that are on W&B: --mode online")
    if given.name and (refused := sorted(set(filter(_is_symbol, given.name)))):
        parser.error(f"--name: W&B takes no {' '.join(refused)} in a workspace's name")

    paths = [path for path in find_results(given.folders) if path.exists()]
    if not paths:
        print(f"mfubench.tracking: no {FILE_NAME} in or below {', '.join(map(str, given.folders))}", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "mfubench.tracking", *(sys.argv[1:] if argv is None else argv)])
    logged = _upload(paths, mode, given.project, given.entity, command)
    complete = len(logged) == len(paths)
    if given.workspace:
        complete &= _save_workspaces(given.name or _name(given.folders), logged)
    return 0 if complete else 1


def _upload(
    paths: Sequence[Path], mode: str, project: str | None, entity: str | None, command: str
) -> Mapping[Path, tuple[Result, Logged]]:
    """The results that were logged, by their files; says of each file what became of it."""
    logged: dict[Path, tuple[Result, Logged]] = {}
    for number, path in enumerate(paths, start=1):
        try:
            result = read_result(path)
            run = log(result, _tracking(result, mode, project, entity), path.parent)
        except UnreadableResult as error:
            print(f"{path.parent}: {error}", flush=True)
        except NotBegun as error:
            missing = f"{path.parent}" + (f" and {rest} more" if (rest := len(paths) - number) else "")
            print(f"{missing}: not logged to W&B: {error}. Later: {command}", flush=True)
            break
        except (Exception, SystemExit) as error:  # W&B may sys.exit
            print(f"{path.parent}: not logged to W&B: {why(error)}. To complete it: {command}", flush=True)
        else:
            logged[path] = (result, run)
            where = f": {run.url}" if run.url else ""
            print(f"{path.parent}: {result.name} logged {mode} as run {run.run_id}{where}", flush=True)
    return logged


def _tracking(result: Result, mode: str, project: str | None, entity: str | None) -> Tracking:
    """Return the destination of a result: the one it was started with, unless other options are given now."""
    stored = result.settings.get("tracking", {})
    return Tracking("wandb", mode, project or stored.get("project"), entity or stored.get("entity"))


def _save_workspaces(name: str, logged: Mapping[Path, tuple[Result, Logged]]) -> bool:
    """Save a workspace in each project that runs were logged to, and print where. Returns True if all are saved."""
    places: dict[tuple[str, str], dict[str, str]] = {}
    for result, run in logged.values():
        places.setdefault((run.entity or "", run.project), {})[run.run_id] = result.framework
    missing = False
    for (entity, project), frameworks in places.items():
        try:
            print(f"workspace {name!r}: {save(name, entity, project, frameworks)}")
        except (Exception, SystemExit) as error:
            print(f"workspace {name!r} not saved in {entity}/{project}: {why(error)}")
            missing = True
    return bool(places) and not missing


def _name(folders: Sequence[Path]) -> str:
    """Name a workspace by the folders; a sweep's name is its date and time."""
    named = ", ".join("/".join(folder.resolve().parts[-2:]) for folder in folders)
    return "mfubench " + "".join("-" if _is_symbol(sign) else sign for sign in named)


def _is_symbol(sign: str) -> bool:
    """Return True for characters that W&B takes for an emoji, as +, = and ~ are."""
    return unicodedata.category(sign).startswith("S")


if __name__ == "__main__":
    sys.exit(main())
