"""Keep generated files under a digest of everything that they depend on: made once, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Part of every digest: raise it with any change to the bytes that this package writes.
FORMAT = 1


def digest(made_of: Mapping[str, Any]) -> str:
    """A name for the product of the inputs `made_of`."""
    words = json.dumps({"format": FORMAT, **made_of}, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]
