"""Read this machine: a framework's environment and versions, the devices and their peaks, the cache folder.

Versions are read from the environment's files, so nothing is imported.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path

from mfubench.config import Framework, Hardware
from mfubench.config.vocabulary import packages
from mfubench.files.paths import LAUNCHERS, ROOT, cache_folder
from mfubench.hardware.machine import Machine, Unavailable, detect
from mfubench.hardware.peaks import UnknownPeak, peak, peak_dtype
from mfubench.launch.programs import responds, run_together
from mfubench.plan import engines

STATE_READY, STATE_MISSING, STATE_CHANGED = "ready", "not installed", "out of date"
# Packages that a step depends on, besides the framework itself; those that decide its FLOPs first.
SHOWN = tuple(dict.fromkeys((*packages("flops"), *packages("shown"))))


@dataclass(frozen=True)
class Environment:
    """The environment of a framework."""

    framework: Framework  # with the engine that is installed here, `framework.engine`
    state: str  # STATE_READY | STATE_MISSING | STATE_CHANGED
    because: str | None  # a run's message if it is missing
    versions: dict[str, str]


@dataclass(frozen=True)
class Devices:
    """The devices of the machine."""

    machine: Machine
    peaks: dict[str, float]  # dtype → dense FLOP/s of one device; empty if it is measured before each run
    source: str
    problem: str | None  # the reason why these settings can't be measured


@dataclass(frozen=True)
class Cache:
    """The cache folder of models, datasets and FLOP counts."""

    folder: Path
    free_bytes: int
    writable: bool


def framework_environment(framework: Framework) -> Environment:
    """Check if the framework can be started here, and read its versions."""
    try:
        engines.check_installed(framework, ROOT)
        framework, engine = engines.choose(framework, responds)
    except engines.NotInstalled as reason:
        return Environment(framework, STATE_MISSING, str(reason), {})
    state = STATE_READY if _as_required(framework) else STATE_CHANGED
    return Environment(replace(framework, engine=engine), state, None, _package_versions(framework))


def devices(settings: Hardware) -> Devices:
    """The machine that a run would use, and its peaks."""
    try:
        machine = detect(settings)
    except Unavailable as reason:
        on_cpu = detect(replace(settings, device="cpu"))
        return Devices(on_cpu, {}, "", str(reason))
    if machine.device == "cpu" and settings.peak_flops_per_second is None:
        return Devices(machine, {}, "measured before each run", None)
    peaks, source, problem = {}, "", None
    for dtype in dict.fromkeys(peak_dtype(precision, machine) for precision in ("bf16", "fp32")):
        try:
            found = peak(settings, machine, dtype, 1, 1, run_together)
        except UnknownPeak as unknown:
            problem = problem or str(unknown)
        else:
            peaks[dtype], source = found.flops_per_second, found.source
    return Devices(machine, peaks, source, None if peaks else problem)


def cache() -> Cache:
    """The cache folder, which may not exist yet."""
    folder = cache_folder()
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    return Cache(folder, shutil.disk_usage(there).free, os.access(there, os.W_OK | os.X_OK))


def _as_required(framework: Framework) -> bool:
    """True if an environment made by mfubench's installer matches its requirements."""
    if framework.python is None or Path(framework.python).is_absolute():
        return True
    return responds((sys.executable, str(LAUNCHERS / "install"), "--check", framework.name))


def _package_versions(framework: Framework) -> dict[str, str]:
    """Package → version: of the framework itself, if it has an environment, and of the packages that determine its speed."""
    path, wanted = sys.path, list(SHOWN)
    if framework.python is not None:
        environment = (ROOT / framework.python).parent.parent
        path = [str(packages) for packages in environment.glob("lib/python*/site-packages")]
        wanted = [*_first_requirement(framework.name), *SHOWN]
    found = {name: next(iter(distributions(name=name, path=path)), None) for name in wanted}
    return {name: package.version for name, package in found.items() if package is not None}


def _first_requirement(framework: str) -> list[str]:
    """The package that is the framework itself: the first of its requirements."""
    requirements = LAUNCHERS / framework / "requirements.txt"
    lines = requirements.read_text() if requirements.is_file() else ""
    return re.findall(r"^[A-Za-z0-9._-]+", lines, re.MULTILINE)[:1]
