"""What mfubench itself costs, and what it can tell apart: `make bench`. In: nothing. Out: two tables; no test, so it ends with 0.

Everything is measured in one run, in fresh processes, and what is compared takes turns, so that a machine whose speed
drifts slows both sides alike.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rich.console import Console

from mfubench.files.paths import ROOT

from .commands import jobs, report, start
from .comparing import comparing
from .counting import counting
from .coverage import coverage
from .figures import comparisons, table
from .probe import probe
from .profiling import profiling
from .weights import random_weights


def main() -> None:
    """Measure, and print the tables."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="mfubench-bench-") as name:
        # Nothing of the user's own is read or written, and nothing is uploaded.
        os.environ |= {"MFUBENCH_CACHE": f"{name}/cache", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
        os.environ["MFUBENCH_LOCAL"] = "none"
        folder = Path(name)
        lines = []
        for measured in (start, report, counting, random_weights, jobs):
            with console.status(f"measuring {measured.__name__.replace('_', ' ')}"):
                lines += measured(folder)
        with console.status("measuring the probe"):
            own, made = probe(folder)
        with console.status("measuring profiles"):
            profiles, same = profiling(folder)
        with console.status("comparing"):
            made += [*same, *comparing(folder)]
    console.print(table([*lines, *own, *profiles]))
    console.print(comparisons(made))
    console.print(coverage())


if __name__ == "__main__":
    main()
