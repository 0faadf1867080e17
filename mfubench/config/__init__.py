"""Compose and validate Experiments from the command line and conf/."""

from __future__ import annotations

from mfubench.config.errors import ConfigError, WrongCombination
from mfubench.config.schema import (
    ALL_LINEAR,
    Cluster,
    Data,
    Engine,
    Experiment,
    Framework,
    GradientCheckpointing,
    Hardware,
    Liger,
    Measurement,
    Mode,
    Model,
    Parallelism,
    Tracking,
)

__all__ = [
    "ALL_LINEAR",
    "Cluster",
    "ConfigError",
    "Data",
    "Engine",
    "Experiment",
    "Framework",
    "GradientCheckpointing",
    "Hardware",
    "Liger",
    "Measurement",
    "Mode",
    "Model",
    "Parallelism",
    "Tracking",
    "WrongCombination",
]
