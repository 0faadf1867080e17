"""Counts kept on disk. In: what is counted, and a folder. Out: its Profile, without importing torch when it is known.

One JSON file per content key: the arguments, the versions of the libraries whose code is traced, and the source that
counts, so that no count outlives what made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mfubench.config import Mode
from mfubench.flops.attention import AttentionCall
from mfubench.flops.count import profile
from mfubench.flops.shapes import Profile
from mfubench.paths import PACKAGE

TRACED = ("torch", "transformers", "peft")


def cached_profile(
    architecture: Mapping[str, Any], mode: Mode, *, recomputation: str, attention: str, folder: Path
) -> Profile:
    """`profile` of the same arguments, from `folder` when it is there, else counted and written there.

    Raises ValueError as `profile` does; nothing is written then.
    """
    key = {
        "architecture": dict(architecture),
        "mode": asdict(mode),
        "recomputation": recomputation,
        "attention": attention,
        "versions": {library: version(library) for library in TRACED},
        "source": _source_hash(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = folder / f"{digest[:32]}.json"
    if file.is_file():
        return _profile_of(json.loads(file.read_text(encoding="utf-8"))["profile"])
    counted = profile(architecture, mode, recomputation=recomputation, attention=attention)
    _write(file, json.dumps({"key": key, "profile": asdict(counted)}, indent=1))
    return counted


def _profile_of(stored: Mapping[str, Any]) -> Profile:
    calls = {
        name: tuple((AttentionCall(**call), times) for call, times in stored[name])
        for name in ("needed_attention", "executed_attention")
    }
    return Profile(**{**stored, **calls})


def _source_hash() -> str:
    digest = hashlib.sha256()
    elsewhere = [PACKAGE / "workload" / "architecture.py", PACKAGE / "probe" / "formulas.py"]
    for file in [*elsewhere, *sorted(Path(__file__).parent.glob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _write(file: Path, text: str) -> None:
    """Write `file` whole or not at all; another process may be writing the same one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, suffix=".tmp", delete=False) as temporary:
        try:
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
            os.replace(temporary.name, file)
        except BaseException:
            os.unlink(temporary.name)
            raise
