"""Where made things lie: under a name that is a digest of all that they depend on, made once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Part of every digest: raise it with any change to the bytes that this package writes.
FORMAT = 1


def digest(made_of: Mapping[str, Any]) -> str:
    """A name for what is made of `made_of`."""
    words = json.dumps({"format": FORMAT, **made_of}, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def once(folder: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill `folder` unless it is there: whole or not at all, and the first of several processes wins."""
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
            if not folder.is_dir():
                raise
