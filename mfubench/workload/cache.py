"""Name what is made by a digest of all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Part of every digest: raise it with any change to the bytes that this package writes.
FORMAT = 1


def digest(made_of: Mapping[str, Any]) -> str:
    """A name for what is made of `made_of`."""
    words = json.dumps({"format": FORMAT, **made_of}, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]
