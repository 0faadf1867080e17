"""The probe: runs inside the measured framework's interpreter and writes down what was really done.

In: the folder named by $MFUBENCH_RECORDS, `site/` on PYTHONPATH, and $MFUBENCH_PROFILE_FLOPS where a step's FLOPs are to
be counted. Out: `rank<N>.jsonl` in that folder (`events` says which lines). It uses the standard library and the torch
that is there, nothing else, and runs on Python 3.9 and later.
`site/sitecustomize.py` loads these modules from their files, under a name of their own, so they import each other
relatively and never the rest of mfubench.

The probe never raises into its host: a mistake of its own turns it off and is recorded.
"""

from __future__ import annotations

import os
from types import ModuleType

from .events import Writer
from .import_hook import after_import


def switch_on(folder: str) -> None:
    """Observes this process from the moment torch is imported; writes to `folder` once it trains."""
    writer = Writer(folder)

    def observe(_torch: ModuleType) -> None:
        # Imported here: it needs the torch that has just been loaded.
        from .observer import install

        install(writer, profile_flops=bool(os.environ.get("MFUBENCH_PROFILE_FLOPS")))

    after_import("torch", observe, writer.write_error)
