"""Run W&B's client from start to end: quiet, with bounded time, and without a service left behind."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from mfubench.config import Tracking

INIT_TIMEOUT_S = 10.0  # to begin a run
FINISH_TIMEOUT_S = 20.0  # to send its files, and again to end it
TEARDOWN_TIMEOUT_S = 20.0  # to end W&B's service


class NotBegun(ConnectionError):
    """W&B began no run: no server, no key, or one that is refused. Another result would fare no better."""


def mode_of(tracking: Tracking) -> str:
    """Online | offline | disabled | auto; `auto` does what WANDB_MODE says."""
    return tracking.mode if tracking.mode != "auto" else os.environ.get("WANDB_MODE") or "auto"


def destination(tracking: Tracking) -> str:
    """Return where a run would be logged: online, offline or disabled. Doesn't ask a server if the key is valid."""
    mode = mode_of(tracking)
    if mode != "auto":
        return mode
    try:
        with client(mode) as settings:
            return str(settings.mode)
    except (Exception, SystemExit):  # of a key that can be none; `track` says so after a run
        return "offline"


@contextmanager
def client(mode: str) -> Iterator[Any]:
    """Yield the wandb.Settings for this block, in which `auto` is resolved to online (if logged in) or offline.

    Raises NotBegun if it must be online and nobody is logged in. W&B's service runs during the block only, never beside a
    job.
    """
    import wandb

    with _environment_kept():
        settings = _settings(wandb)
        if mode != "auto":
            settings.mode = mode
        try:
            wandb.setup(settings)
            if mode in ("auto", "online"):
                logged_in = wandb.login(prompt=False, verify=False)  # looks up the configured host's key; asks nobody
                if mode == "online" and not logged_in:
                    raise NotBegun("nobody is logged in; run `wandb login` or set WANDB_API_KEY")
                settings.mode = "online" if logged_in else "offline"
                wandb.setup(settings)
            # Without a server this flag has one effect: the summary's own `_wandb.runtime` isn't replaced by the client's.
            settings.x_server_side_derived_summary = settings.mode == "offline"
            yield settings
        finally:
            _teardown(wandb)


def _teardown(wandb: Any) -> None:
    """End W&B's service, after TEARDOWN_TIMEOUT_S by force.

    wandb-core (0.31) may hang for good if its client leaves while it still answers, as after a key that is refused, and
    wandb.teardown() waits for it without a limit.
    """
    services = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    overdue = threading.Timer(TEARDOWN_TIMEOUT_S, _kill, [services])
    overdue.daemon = True
    overdue.start()
    try:
        wandb.teardown()
    except SystemExit:  # of the service's exit status
        if overdue.is_alive():
            raise
    finally:
        overdue.cancel()


def _kill(services: Sequence[psutil.Process]) -> None:
    for service in services:
        with suppress(psutil.NoSuchProcess):
            service.kill()


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
    """Keep W&B quiet, and remove the variables it sets, which the next job would inherit (WANDB_SERVICE)."""
    before = dict(os.environ)
    try:
        with tempfile.TemporaryDirectory(prefix="mfubench-wandb-") as folder:  # without any, its log is on the terminal
            os.environ |= {"WANDB_SILENT": "true", "WANDB_CACHE_DIR": folder, "WANDB_DIR": folder}
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # reports on W&B's client
            yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
