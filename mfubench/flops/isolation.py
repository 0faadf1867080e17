"""Counting leaves no trace of itself. In: a block that builds and traces a model. Out: the same process as before."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def isolated() -> Iterator[None]:
    """Gradients on, random state kept, and nothing printed: what libraries say of a twin is not about the run."""
    import torch
    import transformers  # noqa: F401  # sets its logger's level when it is first imported: before levels are noted

    loggers = [logging.getLogger(name) for name in ("transformers", "peft", "torch", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
