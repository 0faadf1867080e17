"""Step times → what tqdm's progress bar would have said of them while they passed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

SMOOTHING = 0.3  # these three: tqdm's own defaults
SHORTEST_S = 0.1  # between two refreshes
LONGEST_S = 10.0  # after a refresh that took longer than this, the bar looks at the clock more often


def readings(step_times_s: Sequence[float]) -> list[float]:
    """The seconds per step that the bar shows after each step, from its first refresh on.

    As tqdm.update has it (tqdm 4.70, std.py): at a refresh the steps and the seconds since the last one each go into a
    moving average, and their ratio is shown, in which the averages' start cancels out. Between refreshes it lets steps pass
    without looking at the clock, as many as another such average says. Left out: the thread that wakes an idle bar.
    """
    shown: list[float] = []
    steps, seconds, average_steps, average_seconds = 0, 0.0, 0.0, 0.0
    unwatched, refreshes, least_steps = 0.0, 0, 0.0
    for step_time in step_times_s:
        steps, seconds = steps + 1, seconds + step_time
        if steps >= least_steps and seconds >= SHORTEST_S:
            average_steps += SMOOTHING * (steps - average_steps)
            average_seconds += SMOOTHING * (seconds - average_seconds)
            least_steps = steps * SHORTEST_S / seconds
            if seconds < LONGEST_S:
                refreshes += 1
                unwatched += SMOOTHING * (least_steps - unwatched)
                least_steps = unwatched / (1 - (1 - SMOOTHING) ** refreshes)
            steps, seconds = 0, 0.0
        if average_steps:
            shown.append(average_seconds / average_steps)
    return shown
