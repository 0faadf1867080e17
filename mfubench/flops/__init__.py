"""Count the FLOPs of a training step on the meta device: a model and a mode make a Profile, any micro-batch a FlopCount.

Importing this imports neither torch nor transformers; counting does.
"""

from __future__ import annotations

from mfubench.flops.analytic import relative_difference
from mfubench.flops.count import count, profile
from mfubench.flops.profile import FlopCount, Profile
from mfubench.flops.step import cached_profile, profile_of, second_count, step_flops

__all__ = [
    "FlopCount",
    "Profile",
    "cached_profile",
    "count",
    "profile",
    "profile_of",
    "relative_difference",
    "second_count",
    "step_flops",
]
