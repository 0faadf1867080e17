"""Hydra's private parts, all imported here: another release of Hydra may move them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override


def read_flags(argv: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Flags of `argv`, with `overrides`, and the words that are neither. Raises SystemExit for a flag's wrong value."""
    return get_args_parser().parse_known_args(list(argv))


def expand_sweep(overrides: list[Override]) -> list[list[str]]:
    """Overrides of each job of a sweep. Raises HydraException and OmegaConfBaseException for values without a list."""
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return jobs
