"""One result → one W&B run, or a warning. Offline runs lie in the run folder's wandb/."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mfubench.config import Tracking
from mfubench.measure.metric_table import PER_STEP
from mfubench.plan.stage import stage
from mfubench.result import Result
from mfubench.result.result_file import FILE_NAME
from mfubench.tracking import content
from mfubench.tracking.client import NotBegun, client, mode_of

SILENT = re.compile("dial tcp|deadline exceeded|Timed out")  # in the client's words for a server that it can't reach
LARGEST_LOG_BYTES = 5_000_000
ARTIFACT_TYPE = "mfubench-result"

_failed_in: set[str] = set()  # sweeps of this process


@dataclass(frozen=True)
class Logged:
    """The place of a logged run. An offline run has no entity and no address yet."""

    run_id: str
    project: str
    entity: str | None
    url: str | None


def track(result: Result, tracking: Tracking, folder: Path) -> str | None:
    """Log the result in `folder` as one W&B run. Returns None if done or disabled, else the warning to show.

    Mode `auto` follows WANDB_MODE, and without it logs online if the user is logged in, else offline. After a failure in a
    sweep, later jobs of this process log offline, so that a server that is down costs its timeouts once.
    """
    mode = mode_of(tracking)
    if mode == "disabled":
        return None
    if result.group in _failed_in:
        mode = "offline"
    try:
        log(result, replace(tracking, mode=mode), folder)
    except (Exception, SystemExit) as error:  # whatever W&B does (it may sys.exit), the result stands
        warning = f"not logged to W&B: {why(error)}. The result is safe in {folder / FILE_NAME}; "
        if result.group is None:
            return f"{warning}to upload it later: {_command(folder)}"
        _failed_in.add(result.group)
        return f"{warning}later ones of this sweep are logged offline; to upload them all: {_command(folder.parent)}"
    return None


def log_or_warn(result: Result, tracking: Tracking, console: Console) -> None:
    """Log a result that lies in its folder; if that fails, print how to do it later."""
    logs = mode_of(tracking) != "disabled"
    with stage("logging to W&B", console) if logs else nullcontext():
        warning = track(result, tracking, Path(result.provenance.folder))
    if warning:
        console.print(warning, style="yellow")


def log(result: Result, tracking: Tracking, folder: Path) -> Logged:
    """Log one run. Its id is a digest of result.json, so that logging a result again changes nothing.

    Raises NotBegun, or whatever W&B raises in the middle (SystemExit among it).
    """
    import wandb

    summary = content.summary(result)
    with client(tracking.mode) as settings:
        run = _begun(wandb, result, tracking, folder, settings)
        try:  # not `with run`, which would print a traceback
            for name in ("step", "warmup"):
                run.define_metric(name, summary="none", hidden=True)  # an axis and a mark, no plots of their own
            for name in (*PER_STEP, content.PROFILED):
                run.define_metric(name, step_metric="step", summary="none")
            rows: list[dict[str, Any]] = list(content.history(result))
            if kernels := content.kernels(result):  # with the last step, so that the run's times stay its own
                rows[-1]["kernels"] = wandb.Table(content.KERNEL_COLUMNS, kernels)
            for row in rows:
                run.log(row, step=int(row["step"]))
            run.summary.update(summary)
            artifact = run.log_artifact(_artifact(wandb, result, folder))
            if settings.mode == "online":
                artifact.wait(int(settings.finish_timeout))  # finish() would end well without it
        finally:
            run.finish(exit_code=0 if result.status == "ok" else 1)
        if settings.mode == "online":  # `finish` gives it the seconds of the upload
            api = wandb.Api(overrides={"entity": run.entity}, timeout=int(settings.finish_timeout))
            api.run(f"{run.entity}/{run.project}/{run.id}").summary.update(summary)
        return Logged(run.id, run.project, run.entity or None, run.url)


def why(error: BaseException) -> str:
    """Return an error's message on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _begun(wandb: Any, result: Result, tracking: Tracking, folder: Path, settings: Any) -> Any:
    run_id = hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()[:16]
    added = filter(None, (tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",")))
    config = content.config(result)
    try:
        return wandb.init(
            project=tracking.project or os.environ.get("WANDB_PROJECT") or "mfubench",
            entity=tracking.entity,  # None: WANDB_ENTITY, or the user
            group=result.group,
            job_type=result.settings["mode"]["name"],
            name=os.environ.get("WANDB_NAME") or result.name,
            tags=list(dict.fromkeys((*content.tags(result), *added))),
            config=config,
            id=run_id,
            resume="allow",
            dir=folder,
            settings=settings,
        )
    except (Exception, SystemExit) as error:
        silent = SILENT.search(str(error)) and f"{wandb.setup().settings.base_url} doesn't answer (no network?)"
        raise NotBegun(silent or why(error)) from error


def _artifact(wandb: Any, result: Result, folder: Path) -> Any:
    """The run folder's files: the result, the plan, the native config, and the framework's log unless it is huge.

    A result that names files elsewhere, which somebody else's may, gets none of them uploaded.
    """
    artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", result.name)[:128], type=ARTIFACT_TYPE)
    others = result.plan.other_files if result.plan else {}
    names = [FILE_NAME, "plan.json", result.settings["framework"]["config_file"], *others, "framework.log"]
    for path in (folder / name for name in names):
        here = path.is_file() and path.resolve().parent == folder.resolve()
        if here and (path.name != "framework.log" or path.stat().st_size < LARGEST_LOG_BYTES):
            artifact.add_file(str(path), policy="immutable", skip_cache=True)  # neither copied nor cached
    return artifact


def _command(folder: Path) -> str:
    return f"python -m mfubench.tracking {shlex.quote(str(folder))}"
