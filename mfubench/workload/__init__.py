"""Make the workload: from a model and a data option, the files that every framework reads, byte for byte the same.

They lie in a cache, under a digest of everything that they depend on: made once, reused by every later run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from mfubench import config
from mfubench.files.whole import make_whole
from mfubench.workload.hub import NoData
from mfubench.workload.model import check_model, write_model
from mfubench.workload.rows import FORMS
from mfubench.workload.source import check_data, digest, find_samples
from mfubench.workload.weights import DRAWING, NoRoom

__all__ = ["FORMS", "NoData", "NoRoom", "Workload", "check_data", "prepare_workload"]


@dataclass(frozen=True)
class Workload:
    """Paths of the model, the tokenizer and the samples."""

    model_path: str  # a folder with config.json, the tokenizer and perhaps weights; or an id on the hub
    tokenizer_path: str  # as model_path
    messages_path: str  # JSONL, one {"messages": [{"role", "content"}, ...]} a line
    alpaca_path: str | None  # JSONL, the same as {"instruction", "input", "output"}; None: not all have this shape
    num_samples: int
    revision: str | None  # of the model on the hub
    data_source: str | None = None  # "jsonl sha256:..." or "<dataset on the hub>@<commit>"; None: synthetic
    num_rows: int | None = None  # in the source: a run reads num_samples, in order, and starts over if they are fewer
    first_other: Mapping[str, int] = field(default_factory=dict)  # FORMS that not all rows have: the first row without


def prepare_workload(
    model: config.Model,
    data: config.Data,
    *,
    sequence_length: int,
    num_samples: int,
    seed: int,
    weights_on_disk: bool,
    dtype: str,
    folder: Path,
    console: Console,
    dry: bool = False,
) -> Workload:
    """Make whatever isn't in the cache `folder` yet, and return the paths.

    A second call takes milliseconds, and on real data the reading of the file; it imports neither torch nor
    transformers. Any number of processes may prepare the same workload at once.

    Args:
        model: The model; one with hub weights is left to the framework to fetch.
        data: The data option.
        sequence_length: Tokens; every synthetic sample has more. Real samples keep their length.
        num_samples: Samples that a run reads.
        seed: Of the synthetic samples and the random weights.
        weights_on_disk: Write random weights to a file.
        dtype: The weights' type as transformers names it, e.g. "bfloat16".
        folder: The cache.
        console: Shows a progress bar while weights are written, and then where they are.
        dry: Write, fetch and ask for nothing, with the same errors otherwise. For hub data at no fixed commit,
            `messages_path` and `alpaca_path` are then placeholders and `num_rows` is None. Disk space isn't checked.

    Raises:
        ValueError: The model is impossible.
        ConfigError: The data are missing or have a bad row.
        NoRoom: The weights don't fit on the disk.
        NoData: The hub's data can't be fetched and aren't in its cache.
    """
    at = folder / "data"
    samples = find_samples(
        data, sequence_length=sequence_length, num_samples=num_samples, seed=seed, folder=at, may_fetch=not dry
    )
    weights_seed = seed if weights_on_disk else None
    model_at = _model_folder(model, weights_seed, dtype, folder)
    if dry:
        if model_at is not None and not model_at.is_dir():
            check_model(model.name, model.architecture)
    else:
        if model_at is not None:
            make = partial(write_model, name=model.name, architecture=model.architecture, console=console)
            if make_whole(model_at, partial(make, dtype=dtype, weights_seed=weights_seed)) and weights_on_disk:
                _say_where(model_at, console)
        if samples.write is not None:
            make_whole(samples.folder, samples.write)
    model_path = model.hub_id if model_at is None else str(model_at)
    assert model_path is not None
    return Workload(
        model_path=model_path,
        tokenizer_path=model_path,
        messages_path=str(samples.folder / "messages" / "train.jsonl"),
        alpaca_path=None if "alpaca" in samples.first_other else str(samples.folder / "alpaca" / "train.jsonl"),
        first_other=samples.first_other,
        num_samples=num_samples,
        revision=model.revision if model.weights == "hub" else None,
        data_source=samples.source,
        num_rows=samples.num_rows,
    )


def _model_folder(model: config.Model, weights_seed: int | None, dtype: str, folder: Path) -> Path | None:
    """The model's folder in the cache; None: the framework fetches it from the hub."""
    if model.weights == "hub":
        return None
    made_of = {
        "architecture": model.architecture,
        "dtype": dtype,
        "weights": None if weights_seed is None else [DRAWING, weights_seed],
        "transformers": version("transformers"),
    }
    return folder / "models" / f"{model.name}-{digest(made_of)}"


def _say_where(folder: Path, console: Console) -> None:
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    line = f"random weights, {size / 1e9:.3g} GB, are kept for later runs; to delete them: rm -r {shlex.quote(str(folder))}"
    console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
