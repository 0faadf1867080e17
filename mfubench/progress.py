"""A progress bar over what the probe has recorded so far: step, step time, running MFU. It wakes once a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mfubench.plan import Plan
from mfubench.records import Follower


@contextmanager
def watching(plan: Plan, ideal_step_s: float, console: Console) -> Iterator[Callable[[], bool]]:
    """Yields `enough()`: it looks at the plan's records, moves the bar, and says whether every rank has its periods.

    `ideal_step_s`: the step's model FLOPs at the peak; its share of the step time is the running MFU.
    """
    follower = Follower(plan.records)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task("starting the framework", total=plan.periods)

        def enough() -> bool:
            seen = follower.look()
            done = min(rank.periods for rank in seen.values()) if len(seen) >= plan.num_ranks else 0
            times = [rank.recent_step_time_s for rank in seen.values() if rank.recent_step_time_s]
            if done and times:
                bar.update(task, description=f"training  {max(times):.3f} s/step  MFU {ideal_step_s / max(times):.1%}")
            elif seen:
                bar.update(task, description="training")
            bar.update(task, completed=min(done, plan.periods))
            bar.refresh()
            return done >= plan.periods

        yield enough
