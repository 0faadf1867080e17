"""Begin a command: its output and the folder it is started in."""

from __future__ import annotations

import io
import os
import sys


def begin_command() -> None:
    """Replace characters that standard output can't encode. Raises SystemExit (2) if the working folder was deleted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        os.getcwd()
    except FileNotFoundError:
        print("mfubench: the working folder was deleted; start from one that is there, as after cd ~", file=sys.stderr)
        raise SystemExit(2) from None
