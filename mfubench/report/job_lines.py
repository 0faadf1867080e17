"""Lines around the runs of a command: which job of a sweep begins, how it ended, where the results lie and what to do next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from mfubench.report.cells import figures_in_words
from mfubench.report.pooling import pool
from mfubench.report.settings import one_line
from mfubench.result.result_file import Result


def before_job(number: int, num_jobs: int, overrides: Sequence[str], took_s: Sequence[float]) -> str:
    """Say which job of a sweep begins: 2 of 4 · mode=full batch_size=2 · about 3 min left.

    Args:
        number: of the job, from 1.
        num_jobs: of the sweep; 0: not known.
        overrides: those that tell it from the other jobs.
        took_s: seconds of each job that was run before; this one and later ones are taken to need their mean.
    """
    left_s = fmean(took_s) * (num_jobs - number + 1) if took_s and num_jobs else None
    left = (
        "" if left_s is None else f"about {left_s / 60:.0f} min left" if left_s > 90 else f"about {left_s:.0f} s left"
    )
    return " · ".join(filter(None, [f"{number} of {num_jobs}" if num_jobs else f"{number}", " ".join(overrides), left]))


def after_job(result: Result, earlier: Sequence[Result] = ()) -> str:
    """Say how a job ended: its status, with its step time and MFU or the reason, unless an earlier job has given that."""
    figures = figures_in_words(pool([result])[0])
    given = any(result.reason == other.reason for other in earlier)
    reason = "as above" if given else one_line(result.reason or "")
    said = [f"step time {figures['step time']}", f"MFU {figures['MFU']}"] if figures else [reason]
    return " · ".join([result.status, *said])


def after_all(results: Sequence[Result], folder: Path) -> Iterator[str]:
    """Yield where the results lie, with the commands that show and upload them. `folder`: above all of them."""
    runs, where = [Path(result.provenance.folder) for result in results], _as_typed(folder)
    yield f"results  {where}"
    log = runs[0] / "framework.log"  # empty if the output went to the user's terminal
    if len(runs) == 1 and results[0].status != "ok" and log.exists() and log.stat().st_size:
        yield f"log      {_as_typed(log)}"
    yield f"report   python -m mfubench.report {where} --format html --output report.html"
    if any(next(run.glob("wandb/offline-run-*"), None) for run in runs):
        yield f"upload   python -m mfubench.tracking {where}   (kept offline so far)"


def _as_typed(path: Path) -> str:
    """The path for a command line: from the working folder if it lies below it."""
    inside = os.path.relpath(path)
    return shlex.quote(str(path) if inside.startswith("..") else inside)
