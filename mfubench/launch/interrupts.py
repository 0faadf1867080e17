"""Turn Ctrl-C, SIGTERM and a closed terminal into one KeyboardInterrupt, and count the signals after it."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = 0  # marks, among the signals, that the run is being ended
_signals: list[int] = []  # received since the outermost `interrupted_once` began
_inside = False  # an `interrupted_once`


@contextmanager
def interrupted_once() -> Iterator[None]:
    """End the run once at Ctrl-C, SIGTERM or SIGHUP; from then on, and while the run is being ended, only count them.

    So the result is still written. A signal that nobody has acted on by the end is raised then.
    """
    global _inside
    if threading.current_thread() is not threading.main_thread() or _inside:
        yield  # only the main thread gets signals; or this is nested
        return
    _signals.clear()
    heard = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    _inside, before = True, {s: signal.signal(s, _interrupt) for s in heard}  # signals that nohup ignores stay ignored
    try:
        yield
    finally:
        _inside = False
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if _signals[:1] == [ENDING] and len(_signals) > 1:
        raise KeyboardInterrupt


def only_counted() -> int:
    """From here on signals end nothing: the run is being ended. Returns their number so far."""
    _signals.append(ENDING)
    return len(_signals)


def came_since(count: int) -> bool:
    """True if another signal has come."""
    return len(_signals) > count


def _interrupt(signum: int, frame: object) -> None:
    _signals.append(signum)
    if signum == signal.SIGHUP:
        _leave_the_terminal()
    if len(_signals) == 1:
        raise KeyboardInterrupt


def _leave_the_terminal() -> None:
    """Stop writing to a terminal that is gone: the error would come before the result is written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        if stat.S_ISCHR(os.fstat(output).st_mode):
            os.dup2(nowhere, output)
    os.close(nowhere)
