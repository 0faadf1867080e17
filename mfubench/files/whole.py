"""Write files and folders whole or not at all: a reader finds the new one, the old one, or none."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write the text (UTF-8) to the path: a temporary file beside it, fsync, rename, fsync of the folder.

    The folder must exist. Several processes may write the same path; the last one wins. Raises OSError; no temporary file
    stays then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # once the folder is synced, the new name is on the disk
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def make_whole(folder: Path, make: Callable[[Path], None]) -> bool:
    """Let `make` fill the folder, unless it exists: beside its place first, then renamed. The first of several processes wins.

    What killed processes of this machine left beside it is deleted. Returns False if the folder was there. Raises OSError,
    and anything that `make` raises; nothing stays then.
    """
    if folder.is_dir():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".making-{socket.gethostname()}-"
    with ExitStack() as locks:
        for left in folder.parent.glob(f"{prefix}*/*"):  # something in it: its maker locked it before
            with suppress(OSError):
                _lock(left.parent, locks)
                shutil.rmtree(left.parent)
        temporary = Path(locks.enter_context(tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix)))
        with suppress(OSError):  # without locks on this disk nobody deletes what was left
            _lock(temporary, locks)
        made = temporary / folder.name
        made.mkdir()
        make(made)
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise
    return True


def _lock(folder: Path, until: ExitStack) -> None:
    """Lock the folder until then, or until the process dies; OSError if another process has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    until.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
