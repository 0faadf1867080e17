"""Marks test_on_a_gpu.py `gpu`, skips it without a GPU, and runs each of gpu_runs.RUNS once. Not yet run on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gpu_runs import BASE, RUNS

from mfubench.config.compose import compose_one
from mfubench.hardware.machine import Unavailable, detect


@cache
def why_no_gpu() -> str | None:
    """The reason why nothing here can run; None on a machine with a GPU."""
    try:
        device = detect(compose_one([]).hardware).device
    except Unavailable as reason:
        return str(reason)
    return None if device == "cuda" else "NVIDIA's driver shows no GPU here"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path == Path(__file__).parent / "test_on_a_gpu.py":
            item.add_marker(pytest.mark.gpu)
            if (reason := why_no_gpu()) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The name of a run in, its result out; skipped, with the command that installs it, if something isn't installed."""

    @cache
    def run(name: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "mfubench", *BASE, *RUNS[name]]
        done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=300)
        (file,) = folder.rglob("result.json")
        result: dict[str, Any] = json.loads(file.read_text())
        assert result["status"] in done.stdout
        return result

    def ran(name: str) -> dict[str, Any]:
        result = run(name)
        if result["status"] == "not_installed":
            pytest.skip(result["reason"])
        return result

    return ran
