"""Write a model's folder: config.json, the synthetic tokenizer and, if wanted, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mfubench.workload.architecture import config_of, in_one_line
from mfubench.workload.tokenizer import BEGIN_OF_TEXT, END_OF_TURN, vocabulary, write_tokenizer
from mfubench.workload.weights import write_weights

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def write_model(
    folder: Path, *, name: str, architecture: Mapping[str, Any], dtype: str, weights_seed: int | None, console: Console
) -> None:
    """Write the model called `name` into `folder`, with random weights in `dtype` if `weights_seed` is given.

    Raises ValueError if transformers doesn't know the architecture or its vocabulary is too small for the synthetic
    tokenizer, and NoRoom if the weights don't fit on the disk.
    """
    config = _config(name, architecture)
    config.dtype = dtype
    if weights_seed is not None:
        write_weights(folder, name, config, dtype, weights_seed, console)
    config.save_pretrained(folder)
    write_tokenizer(folder)


def check_model(name: str, architecture: Mapping[str, Any]) -> None:
    """Raise the ValueError that `write_model` would raise for the architecture, without writing anything."""
    _config(name, architecture)


def _config(name: str, architecture: Mapping[str, Any]) -> PreTrainedConfig:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = config_of(architecture)
    identifiers = vocabulary()
    with in_one_line(architecture):
        size = config.vocab_size
    if size < len(identifiers):
        raise ValueError(
            f"model {name}: architecture.vocab_size is {size}; expected {len(identifiers)} or more, the "
            "size of the synthetic tokenizer (8192 is a good small one)"
        )
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    config.bos_token_id = identifiers[BEGIN_OF_TEXT]
    config.eos_token_id = identifiers[END_OF_TURN]
    return config
