"""Trains a plan's native config in plain PyTorch, and goes wrong in the profile of its steps: CONFIG.yaml DISTURBANCE."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from other_work import train
from torch.autograd.profiler import profile

FOR_EVER_S = 86_400


def crash(*_: Any) -> None:
    """As a fault in the profiler's own library."""
    os.abort()


def hang(*_: Any) -> None:
    """As a device that is waited for in vain."""
    time.sleep(FOR_EVER_S)


def full(*_: Any) -> None:
    """As a host without memory for the events."""
    raise MemoryError("no room for the events")


if __name__ == "__main__":
    config, disturbance = yaml.safe_load(Path(sys.argv[1]).read_text()), sys.argv[2]
    if disturbance == "ends before":
        config["max_steps"] -= 5
    elif disturbance != "none":
        profile.__exit__ = {"crash": crash, "hang": hang, "full": full}[disturbance]
    train(config, "nothing else")
