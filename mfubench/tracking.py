"""Result → W&B: one run per result, or a warning. `python -m mfubench.tracking DIR...` uploads results again.

In goes a result that already lies in its run folder; out go the run's config, its steps, its summary and its files.
Offline runs lie in the folder's wandb/. The only importer of wandb.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfubench.config import Tracking
from mfubench.report.result import FILE_NAME, Result, UnreadableResult, find, read

INIT_TIMEOUT_S = 10.0  # each bounds what a dead server costs a sweep, per job
FINISH_TIMEOUT_S = 30.0
LARGEST_LOG_BYTES = 5_000_000
ARTIFACT_TYPE = "mfubench-result"
RATES = (
    "step_time_s",
    "tokens_per_second_per_device",
    "mfu",
    "hfu",
    "model_tflops_per_second_per_device",
    "hardware_tflops_per_second_per_device",
)


@dataclass(frozen=True)
class _Content:
    """What W&B shows of a result."""

    config: dict[str, Any]
    history: list[dict[str, float]]
    summary: dict[str, Any]


def track(result: Result, tracking: Tracking, folder: Path) -> str | None:
    """Log the result that lies in `folder` as one W&B run; None when done or disabled, else the warning to show.

    The run's id is a digest of result.json: the same result is the same run, however often it is logged. Mode `auto`
    does what WANDB_MODE says, and without it logs online where the user is logged in, else offline.
    """
    mode = _mode(tracking)
    if mode == "disabled":
        return None
    content = _Content(_config(result), _history(result), _summary(result))
    try:
        with _environment_kept():
            _log(result, content, replace(tracking, mode=mode), folder)
    except (Exception, SystemExit) as error:  # whatever W&B does (it may sys.exit), the result stands
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return (
            f"not logged to W&B: {reason}. The result is safe in {folder / FILE_NAME}; "
            f"to upload it later: python -m mfubench.tracking {folder}"
        )
    return None


def destination(tracking: Tracking) -> str:
    """Where a run would be logged: online | offline | disabled. No server is asked whether it takes the user's key."""
    mode = _mode(tracking)
    if mode != "auto":
        return mode
    import wandb

    with _environment_kept():
        try:
            wandb.setup(_settings(wandb))
            return "online" if wandb.login(prompt=False, verify=False) else "offline"
        except (Exception, SystemExit):  # of a key that can be none; `track` says so after a run
            return "offline"
        finally:
            wandb.teardown()


def _mode(tracking: Tracking) -> str:
    return tracking.mode if tracking.mode != "auto" else os.environ.get("WANDB_MODE") or "auto"


def _log(result: Result, content: _Content, tracking: Tracking, folder: Path) -> None:
    """One run from beginning to end. W&B's service is started for it and ended after it: none runs beside a job."""
    import wandb

    settings = _settings(wandb)
    if tracking.mode != "auto":
        settings.mode = tracking.mode
    try:
        wandb.setup(settings)
        if tracking.mode in ("auto", "online"):
            logged_in = wandb.login(prompt=False, verify=False)  # looks up the configured host's key; asks nobody
            if tracking.mode == "online" and not logged_in:
                raise ValueError("nobody is logged in; run `wandb login` or set WANDB_API_KEY")
            settings.mode = "online" if logged_in else "offline"
            wandb.setup(settings)
        run = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            group=result.group,
            job_type=result.settings["mode"]["name"],
            name=result.name,
            tags=[result.framework, result.settings["mode"]["name"], result.status],
            config=content.config,
            id=_run_id(folder),
            resume="allow",
            dir=folder,
            settings=settings,
        )
        try:  # not `with run`, which would print a traceback
            for name in ("step", "warmup"):
                run.define_metric(name, summary="none")
            for name in RATES:
                run.define_metric(name, step_metric="step", summary="none")
            for row in content.history:
                run.log(row, step=int(row["step"]))  # a row that the run already has is dropped
            run.summary.update(content.summary)
            artifact = run.log_artifact(_artifact(wandb, result, folder))
            if settings.mode == "online":
                artifact.wait(int(FINISH_TIMEOUT_S))  # finish() would end well without it
        finally:
            run.finish(exit_code=0 if result.status == "ok" else 1)
    finally:
        wandb.teardown()


def _settings(wandb: Any) -> Any:
    """Nothing on the terminal, nothing of this process or machine (arguments, git, packages, metrics) in the run."""
    return wandb.Settings(
        silent=True,
        console="off",
        program="mfubench",
        save_code=False,
        disable_code=True,
        disable_git=True,
        label_disable=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
    )


@contextmanager
def _environment_kept() -> Iterator[None]:
    """W&B quiet inside; the variables it sets (WANDB_SERVICE) gone outside, where the next job would inherit them."""
    before = dict(os.environ)
    os.environ |= {"WANDB_SILENT": "true", "OTEL_SDK_DISABLED": "true"}  # the latter: its reports on how it is used
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _history(result: Result) -> list[dict[str, float]]:
    """The result's rows; none unless the run is ok."""
    return [dict(row) for row in result.history] if result.status == "ok" else []


def _summary(result: Result) -> dict[str, Any]:
    """Scalars only, so that each is a column in W&B: status and reason; of an ok run every figure with its interval.

    `profiled_tflop_per_step` is what PyTorch's counter counts (hardware FLOPs), per optimizer step and device;
    `profiled_in_situ_tflop_per_step` the same of one warm-up step, counted in the framework's own process.
    """
    figures: dict[str, Any] = {"status": result.status, "reason": result.reason}
    if result.status == "ok":
        assert result.measurement is not None and result.flops is not None
        intervals = result.measurement["ci95"]
        figures |= {name: figure for name, figure in result.measurement.items() if name != "ci95"}
        figures |= {f"{name}_ci95_low": low for name, (low, _) in intervals.items()}
        figures |= {f"{name}_ci95_high": high for name, (_, high) in intervals.items()}
        figures["profiled_tflop_per_step"] = result.flops["hardware_flops"] / 1e12
        figures["model_tflop_per_step"] = result.flops["model_flops"] / 1e12
        figures["profiled_in_situ_tflop_per_step"] = result.flops.get("profiled_in_situ_tflop_per_step")
    return {name: figure for name, figure in figures.items() if figure is not None}


def _config(result: Result) -> dict[str, Any]:
    """What was asked, nested as in conf/; under `hardware` what was found, over what was asked."""
    hardware = {**result.settings["hardware"], **(result.hardware or {})}
    return {
        **result.settings,
        "engine": result.engine,
        "hardware": hardware,
        "work": result.work,
        "provenance": result.provenance,
    }


def _artifact(wandb: Any, result: Result, folder: Path) -> Any:
    """The run folder's files: the result, the plan, the native config, and the framework's log unless it is huge."""
    artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", result.name)[:128], type=ARTIFACT_TYPE)
    others = (result.plan or {}).get("other_files", {})
    names = [FILE_NAME, "plan.json", result.settings["framework"]["config_file"], *others, "framework.log"]
    for path in (folder / name for name in names):
        if path.is_file() and (path.name != "framework.log" or path.stat().st_size < LARGEST_LOG_BYTES):
            artifact.add_file(str(path), policy="immutable", skip_cache=True)  # neither copied nor cached
    return artifact


def _run_id(folder: Path) -> str:
    return hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()[:16]


def main(argv: Sequence[str] | None = None) -> int:
    """Upload every result in or below the folders, a line for each. 0: all are there, 1: not all, 2: there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m mfubench.tracking",
        description="Upload results to W&B. A result that is there already stays one run.",
    )
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", type=Path, help="a run's folder, or one with runs below it"
    )
    parser.add_argument("--mode", choices=("online", "offline"), default="online", help="default: %(default)s")
    parser.add_argument("--project", help="default: the one that the run was started with")
    parser.add_argument("--entity", help="user or team; default: the one that the run was started with")
    given = parser.parse_args(argv)

    paths = [path for path in find(given.folders) if path.exists()]
    if not paths:
        print(f"mfubench.tracking: no {FILE_NAME} in or below {', '.join(map(str, given.folders))}", file=sys.stderr)
        return 2
    uploaded = [_upload(path, given.mode, given.project, given.entity) for path in paths]
    return 0 if all(uploaded) else 1


def _upload(path: Path, mode: str, project: str | None, entity: str | None) -> bool:
    """Whether the result in the file was logged; says so, or why not."""
    try:
        result = read(path)
    except UnreadableResult as error:
        print(f"{path.parent}: {error}")
        return False
    stored = Tracking(**result.settings["tracking"])
    chosen = replace(stored, mode=mode, project=project or stored.project, entity=entity or stored.entity)
    warning = track(result, chosen, path.parent)
    print(f"{path.parent}: {warning or f'{result.name} logged {mode} as run {_run_id(path.parent)}'}", flush=True)
    return warning is None


if __name__ == "__main__":
    sys.exit(main())
