"""The workload. In: a model and a data option. Out: the files that every framework reads, the same bytes for each.

They lie in a cache, under a name that is a digest of all that they depend on: made once, reused by every later run.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mfubench import config
from mfubench.workload.model import write_model
from mfubench.workload.samples import write_samples

# Part of every digest: raise it with any change to the bytes that this package writes.
FORMAT = 1


@dataclass(frozen=True)
class Workload:
    """Where the model, the tokenizer and the samples lie."""

    model_path: str  # a folder with config.json, the tokenizer and maybe weights; or an id on the hub
    tokenizer_path: str  # as model_path
    messages_path: str  # JSONL, one {"messages": [{"role", "content"}, ...]} a line
    alpaca_path: str  # JSONL, the same samples, one {"instruction", "input", "output"} a line
    num_samples: int
    revision: str | None  # of the model on the hub


def prepare(
    model: config.Model,
    data: config.Data,
    *,
    sequence_length: int,
    num_samples: int,
    seed: int,
    weights_on_disk: bool,
    dtype: str,
    folder: Path,
) -> Workload:
    """Make what isn't in the cache `folder` yet, and say where all of it lies.

    Every sample has more than `sequence_length` tokens. `dtype` is transformers' word for the weights' type, e.g.
    "bfloat16". With `weights_on_disk`, a model with random weights gets them as a file, drawn from `seed`; a model whose
    weights come from the hub is left to the framework to fetch.

    A second call takes milliseconds and imports neither torch nor transformers. Any number of processes may prepare the
    same workload at once. Raises ValueError for a model that can't be made, and for data other than synthetic.
    """
    if data.name != "synthetic":
        raise ValueError(f"data is {data.name}; expected synthetic, the only data there is: data=synthetic")
    model_path = _model(model, seed if weights_on_disk else None, dtype, folder)
    made_of = {"num_samples": num_samples, "sequence_length": sequence_length, "seed": seed}
    samples = folder / "data" / f"{data.name}-{_digest(made_of)}"
    _once(samples, partial(write_samples, num_samples=num_samples, sequence_length=sequence_length, seed=seed))
    return Workload(
        model_path=model_path,
        tokenizer_path=model_path,
        messages_path=str(samples / "messages" / "train.jsonl"),
        alpaca_path=str(samples / "alpaca" / "train.jsonl"),
        num_samples=num_samples,
        revision=model.revision if model.weights == "hub" else None,
    )


def _model(model: config.Model, weights_seed: int | None, dtype: str, folder: Path) -> str:
    """The model's path: its folder in the cache, or its id on the hub."""
    if model.weights == "hub":
        if model.hub_id is None:
            raise ValueError(
                f"model {model.name}: weights is hub and hub_id is null; name the id, or set model.weights=random"
            )
        return model.hub_id
    if model.weights != "random":
        raise ValueError(f"model {model.name}: weights is {model.weights!r}; expected random or hub")

    made_of = {
        "architecture": model.architecture,
        "dtype": dtype,
        "weights_seed": weights_seed,
        "transformers": version("transformers"),
    }
    path = folder / "models" / f"{model.name}-{_digest(made_of)}"
    make = partial(
        write_model, name=model.name, architecture=model.architecture, dtype=dtype, weights_seed=weights_seed
    )
    _once(path, make)
    return str(path)


def _digest(made_of: Mapping[str, Any]) -> str:
    words = json.dumps({"format": FORMAT, **made_of}, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _once(folder: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill `folder` unless it is there: whole or not at all, and the first of several processes wins."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        make(made)
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():
                raise
