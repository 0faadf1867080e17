"""Paths of conf/ and launchers/ (in a checkout beside the package, in a wheel inside it), and of the cache."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
ROOT = PACKAGE.parent if (PACKAGE.parent / "conf" / "config.yaml").is_file() else PACKAGE
CONF = ROOT / "conf"
LAUNCHERS = ROOT / "launchers"
PROBE_SITE = PACKAGE / "probe" / "site"


def cache_folder() -> Path:
    """The cache of models, datasets and FLOP counts: $MFUBENCH_CACHE, else mfubench/ in the user's cache folder."""
    chosen = os.environ.get("MFUBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mfubench"
