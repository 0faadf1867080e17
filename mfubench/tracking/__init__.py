"""Results → W&B: one run per result, and a workspace that compares them. The only importer of wandb.

In goes a result that already lies in its run folder; out go the run's config, its steps, its summary and its files.
`python -m mfubench.tracking DIR...` uploads results again.
"""

from __future__ import annotations

from mfubench.tracking.client import destination
from mfubench.tracking.upload import log_or_warn, track

__all__ = ["destination", "log_or_warn", "track"]
