"""What is asked: the command line and conf/ in, validated Experiments out."""

from __future__ import annotations

from mfubench.config.errors import ConfigError, WrongCombination
from mfubench.config.schema import (
    Data,
    Experiment,
    Framework,
    GradientCheckpointing,
    Hardware,
    Measurement,
    Mode,
    Model,
    Parallelism,
    Tracking,
)

__all__ = [
    "ConfigError",
    "Data",
    "Experiment",
    "Framework",
    "GradientCheckpointing",
    "Hardware",
    "Measurement",
    "Mode",
    "Model",
    "Parallelism",
    "Tracking",
    "WrongCombination",
]
