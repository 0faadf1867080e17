"""Run at Python's start if this folder is on PYTHONPATH: first the sitecustomize that it hides, then the probe.

Does nothing of its own unless $MFUBENCH_RECORDS names a folder. Must not fail, whatever the host looks like.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys

SITE_FOLDER = os.path.dirname(os.path.realpath(__file__))


def run_the_hidden_sitecustomize() -> None:
    """Run the host's own sitecustomize: Python imports only one, and the host's must be the one found by name."""
    elsewhere = [folder for folder in sys.path if os.path.realpath(folder) != SITE_FOLDER]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def switch_on_the_probe(folder: str) -> None:
    """Load the probe under a private name: the host may have no mfubench, or another one."""
    name, probe = "_mfubench_probe", os.path.dirname(SITE_FOLDER)
    try:
        spec = importlib.util.spec_from_file_location(
            name, os.path.join(probe, "__init__.py"), submodule_search_locations=[probe]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        module.switch_on(folder)
    except Exception as error:
        record_error(folder, repr(error))


def record_error(folder: str, error: str) -> None:
    """Record that the probe itself could not be loaded, and so neither could its writer."""
    try:
        with open(os.path.join(folder, "errors.%d.jsonl" % os.getpid()), "a") as file:
            file.write(json.dumps({"event": "probe_error", "error": error, "pid": os.getpid()}) + "\n")
    except OSError:
        pass


try:
    run_the_hidden_sitecustomize()
finally:
    if os.environ.get("MFUBENCH_RECORDS"):
        switch_on_the_probe(os.environ["MFUBENCH_RECORDS"])
