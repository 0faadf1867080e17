"""A progress bar over what the probe has recorded so far: step time, how sure it is, running MFU. It wakes once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mfubench.launch.outcome import Ending
from mfubench.launch.supervision import Stall
from mfubench.measure.intervals import half_width
from mfubench.measure.stopping_rule import Rule, enough_after
from mfubench.plan.native import Plan
from mfubench.records import Follower
from mfubench.records.rank_events import RankEvents

MIN_STEPS_FOR_AN_INTERVAL = 4


@contextmanager
def progress_bar(
    plan: Plan, rule: Rule, stall_s: float | None, ideal_step_s: float, console: Console
) -> Iterator[Callable[[], Ending | None]]:
    """Show a progress bar, and yield `poll()`, which reads the records, moves the bar and says if the run is to be ended.

    It is ended if every rank has enough steps by the rule, or if no step ends for `stall_s` (see Stall).
    `ideal_step_s`: the step's model FLOPs at the peak, in s; its share of the step time is the running MFU.
    """
    import numpy as np  # noqa: F401  (here, so that no import runs beside measured steps: the rule needs both)
    import scipy.special  # noqa: F401

    follower, stall = Follower(plan.records), Stall(stall_s)
    text = TextColumn("{task.description}")
    columns = (SpinnerColumn(), text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("starting the framework", total=plan.periods)

        def poll() -> Ending | None:
            ranks = follower.poll()
            times = {name: rank.step_times_s for name, rank in ranks.items()}
            done = min(map(len, times.values())) if len(times) >= plan.num_ranks else 0
            if ranks:
                bar.update(task, description=_description(ranks.values(), rule, ideal_step_s) if done else "training")
            bar.update(task, completed=min(done, plan.periods))
            bar.refresh()
            if done and enough_after(list(times.values()), rule) is not None:
                return Ending("stopped")
            still = stall.poll(times, time.monotonic())
            return None if still is None else Ending("stalled", still)

        yield poll


def _description(ranks: Collection[RankEvents], rule: Rule, ideal_step_s: float) -> str:
    """The slowest rank's recent step time, the running MFU, and how sure the mean is by now."""
    recent = max(rank.recent_step_time_s or 0.0 for rank in ranks)
    words = f"training  {recent:.3f} s/step  MFU {ideal_step_s / recent:.1%}"
    measured = [rank.step_times_s[rule.warmup :] for rank in ranks]
    if min(map(len, measured)) < MIN_STEPS_FOR_AN_INTERVAL:
        return words
    sure = max(half_width(times) / (sum(times) / len(times)) for times in measured)
    return f"{words} ±{sure:.1%}" + (f" (to ±{rule.precision:.1%})" if rule.precision is not None else "")
