"""A progress bar over what the probe has recorded so far: the last steps, and how sure the mean is. It wakes once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mfubench.launch.outcome import Ending
from mfubench.launch.supervision import Stall
from mfubench.measure.intervals import MIN_STEPS, half_width
from mfubench.measure.metric_table import percent, seconds
from mfubench.measure.profile_request import ProfileRequest
from mfubench.measure.stopping_rule import Rule, enough_after
from mfubench.plan.plan import Plan
from mfubench.records.reading import Follower

RECENT_STEPS = 20
BAR_WIDTH = 10  # columns, so that all of it fits into 100


@contextmanager
def progress_bar(
    plan: Plan,
    rule: Rule,
    stall_s: float | None,
    ideal_step_s: float | None,
    console: Console,
    request: ProfileRequest | None = None,
) -> Iterator[Callable[[], Ending | None]]:
    """Show a progress bar, and yield `poll()`, which reads the records, moves the bar and says if the run is to be ended.

    It is ended if every rank has enough steps by the rule, and has answered the `request` for a profile of the steps after
    these, if there is one; or if no step ends for `stall_s` (see Stall).
    `ideal_step_s`: the step's model FLOPs at the peak, in s; its share of the step time is the running MFU. None: not known.
    """
    import numpy as np  # noqa: F401  (here, so that no import runs beside measured steps: the rule needs both)
    import scipy.special  # noqa: F401

    follower, stall = Follower(plan.records), Stall(stall_s)
    text = TextColumn("{task.description}")
    columns = (BarColumn(BAR_WIDTH), MofNCompleteColumn(), TimeElapsedColumn(), text)
    shown = console.is_terminal
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not shown) as bar:
        task = bar.add_task("starting the framework", total=plan.periods)

        def poll() -> Ending | None:
            if request is not None and request.deadline_s is not None:
                bar.refresh()
                return Ending("stopped") if request.over else None
            ranks = follower.poll()
            times = {name: rank.step_times_s for name, rank in ranks.items()}
            done = min(map(len, times.values())) if len(times) >= plan.num_ranks else 0
            if ranks:
                bar.update(task, description=_description(times.values(), rule, ideal_step_s) if done else "training")
            bar.update(task, completed=min(done, plan.periods))
            bar.refresh()
            if done and enough_after(list(times.values()), rule) is not None:
                if request is None:
                    return Ending("stopped")
                request.enough(ranks)
                if request.over:
                    return Ending("stopped")
                bar.update(task, description=f"enough is measured: profiling {request.steps} steps")
            still = stall.poll(times, time.monotonic())
            return None if still is None else Ending("stalled", still)

        yield poll


def _description(series: Collection[Sequence[float]], rule: Rule, ideal_step_s: float | None) -> str:
    """Describe the slowest rank's last steps, and how sure the mean of all measured steps is by now."""
    recent = [times[-RECENT_STEPS:] for times in series]
    slowest = max(fmean(times) for times in recent)
    steps = min(map(len, recent))
    words = f"last {steps} step{'s' if steps > 1 else ''}: {seconds(slowest)}" + (
        "" if ideal_step_s is None else f", MFU {percent(ideal_step_s / slowest)}"
    )
    measured = [times[rule.warmup :] for times in series]
    if min(map(len, measured)) < MIN_STEPS:
        return words
    sure = percent(max(half_width(times) / fmean(times) for times in measured))
    return f"{words}; mean ±{sure}" + (f", ends at ±{percent(rule.precision)}" if rule.precision is not None else "")
