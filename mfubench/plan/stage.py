"""Show a stage of a run on the terminal, while it lasts and when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def stage(doing: str, console: Console) -> Iterator[None]:
    """Show a spinner on a terminal, then print a line with the seconds it took; nothing if it fails.

    The spinner turns once a second, so that it takes nothing from what is measured.
    """
    began = time.monotonic()
    with console.status(doing, spinner_style="dim", refresh_per_second=1):
        yield
    print_stage(doing, time.monotonic() - began, console)


def print_stage(done: str, took_s: float, console: Console) -> None:
    """Print the line of a stage that took some seconds."""
    console.print(f"{done}: {took_s:.1f} s", style="dim", markup=False, highlight=False)
