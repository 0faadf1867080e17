"""Write files and folders whole or not at all: a reader finds the new one, the old one, or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
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


def make_whole(folder: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill the folder, unless it exists: beside its place first, then renamed. The first of several processes wins.

    Raises OSError, and anything that `make` raises; nothing stays then.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        make(made)
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():  # another process was first
                raise
