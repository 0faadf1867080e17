"""Remove stale lock files of torch's C++ extension builds.

A build that is killed leaves its lock, and later builds wait for it forever; runs therefore build in a folder of our own.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from mfubench.files.paths import cache_folder
from mfubench.launch import processes

FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"  # torch.utils.cpp_extension's
LOCK_NAME = "lock"
COMPILED_WITHIN_S = 900.0


def build_environment(program: str) -> dict[str, str]:
    """Environment variables that make a run of `program` compile into our folder; none if the user has named a folder.

    Programs of different environments have different libraries, and would overwrite each other's builds in one folder.
    """
    beside = hashlib.sha256(str(Path(program).parent).encode()).hexdigest()[:12]
    return {} if FOLDER_VARIABLE in os.environ else {FOLDER_VARIABLE: str(_folder() / beside)}


def release(since_s: float | None = None) -> None:
    """Remove the locks made after `since_s` (time of day, s) by a run that has ended; without it, those too old to be held.

    A lock that a living process has open belongs to another run and stays.
    """
    if FOLDER_VARIABLE in os.environ:
        return
    for lock in _folder().rglob(LOCK_NAME):
        try:
            made = lock.stat().st_mtime
            left = made < time.time() - COMPILED_WITHIN_S if since_s is None else made >= since_s
            if left and not processes.have_open(lock):
                lock.unlink()
        except FileNotFoundError:
            continue  # its holder was done


def _folder() -> Path:
    return cache_folder() / "torch_extensions"
