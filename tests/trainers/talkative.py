"""A trainer that prints its environment, as a framework's crash report may, and fails with a secret in its last words."""

from __future__ import annotations

import json
import os

if __name__ == "__main__":
    for name, value in os.environ.items():
        print(f"{name}={value}")
    print(json.dumps(dict(os.environ)))
    raise RuntimeError(f"no such token: {os.environ['SOME_HUB_TOKEN']}")
