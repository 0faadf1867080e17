"""Identify a run before it is started, to find an earlier run of the same experiment.

Two runs have one identity if their composed settings and the versions of all that runs are equal. Their folders don't
matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mfubench
from mfubench.config import Experiment, Framework
from mfubench.config.vocabulary import UNMEASURED, packages
from mfubench.files.paths import ROOT
from mfubench.hardware.machine import Unavailable, detect
from mfubench.launch.programs import commit_of, responds
from mfubench.plan import engines


def identity(experiment: Experiment) -> dict[str, Any]:
    """Return what identifies a run before its start.

    `settings` is a digest of the composed settings; `versions` holds those of all software and hardware known by then.
    """
    asked = {name: value for name, value in asdict(experiment).items() if name not in UNMEASURED}
    return {
        "settings": hashlib.sha256(repr(_sorted(asked)).encode(errors="surrogatepass")).hexdigest()[:16],
        "versions": {
            "mfubench": mfubench.__version__,
            "commit": commit_of(ROOT),
            **{name: _version(name) for name in packages("run")},
            "framework_environment": _environment_mark(experiment.framework),
            **_here(experiment),
        },
    }


def _here(experiment: Experiment) -> dict[str, str | None]:
    """Return the device, driver and engine that the experiment would have here, None for each that is missing."""
    try:
        machine = detect(experiment.hardware)
        device, driver = machine.device_name, machine.driver
    except Unavailable:
        device, driver = None, None
    try:
        _, engine = engines.choose(experiment.framework, responds)
    except engines.NotInstalled:
        engine = None
    return {"device": device, "driver": driver, "engine": engine}


def _environment_mark(framework: Framework) -> str | None:
    """Return the mark that launchers/install left in the framework's environment; None without one."""
    mark = (ROOT / framework.python).parent.parent / engines.INSTALLED if framework.python else None
    return mark.read_text().strip() if mark is not None and mark.is_file() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _sorted(tree: Any) -> Any:
    """Sort mappings by key, whatever the types of the keys, so that their order doesn't matter."""
    if isinstance(tree, Mapping):
        return sorted((repr(key), _sorted(value)) for key, value in tree.items())
    return [_sorted(value) for value in tree] if isinstance(tree, list | tuple) else tree
