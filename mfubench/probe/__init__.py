"""The probe: runs inside the measured framework's interpreter and records the work that was really done.

Reads $MFUBENCH_RECORDS (a folder), `site/` on PYTHONPATH, and $MFUBENCH_PROFILE_FLOPS if a step's FLOPs are to be counted;
writes `rank<N>.jsonl` into that folder (`events` lists the lines). It uses only the standard library and the framework's
torch, and runs on Python 3.9 and later.
`site/sitecustomize.py` loads these modules from their files, under a name of their own, so they import each other
relatively and never the rest of mfubench.

The probe never raises into its host: an error of its own turns it off and is recorded.
"""

from __future__ import annotations

import os
from types import ModuleType

from .events import Writer
from .import_hook import after_import


def switch_on(folder: str) -> None:
    """Observe this process from the moment torch is imported; write to `folder` once it trains."""
    writer = Writer(folder)

    def observe(_torch: ModuleType) -> None:
        # Imported here: it needs torch, which has just been loaded.
        from .observer import install

        install(writer, profile_flops=bool(os.environ.get("MFUBENCH_PROFILE_FLOPS")))

    after_import("torch", observe, writer.write_error)
