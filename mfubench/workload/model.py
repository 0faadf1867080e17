"""Write a model's folder: config.json, the synthetic tokenizer and, if wanted, random weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfubench.workload.architecture import config_of
from mfubench.workload.tokenizer import BEGIN_OF_TEXT, END_OF_TURN, vocabulary, write_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def write_model(
    folder: Path, *, name: str, architecture: Mapping[str, Any], dtype: str, weights_seed: int | None
) -> None:
    """Write the model called `name` into `folder`, with random weights in `dtype` if `weights_seed` is given.

    Raises ValueError if transformers doesn't know the architecture, its vocabulary is too small for the synthetic
    tokenizer, or its weights don't fit on the disk.
    """
    config = _config(name, architecture)
    config.dtype = dtype
    if weights_seed is not None:
        _write_random_weights(folder, name, config, dtype, weights_seed)
    config.save_pretrained(folder)
    write_tokenizer(folder)


def check_model(name: str, architecture: Mapping[str, Any]) -> None:
    """Raise the ValueError that `write_model` would raise for the architecture, without writing anything."""
    _config(name, architecture)


def _config(name: str, architecture: Mapping[str, Any]) -> PreTrainedConfig:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = config_of(architecture)
    identifiers = vocabulary()
    if config.vocab_size < len(identifiers):
        raise ValueError(
            f"model {name}: architecture.vocab_size is {config.vocab_size}; expected {len(identifiers)} or more, the "
            "size of the synthetic tokenizer (8192 is a good small one)"
        )
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]]
    config.bos_token_id = identifiers[BEGIN_OF_TEXT]
    config.eos_token_id = identifiers[END_OF_TURN]
    return config


def _write_random_weights(folder: Path, name: str, config: PreTrainedConfig, dtype: str, seed: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with torch.device("meta"):
        sized = AutoModelForCausalLM.from_config(config, dtype=dtype)
    needed = sum(parameter.numel() * parameter.element_size() for parameter in sized.parameters())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"model {name}: its random weights take {needed / 1e9:.1f} GB in {dtype}, and {free / 1e9:.1f} GB are free "
            f"at {folder.parent}; free some, or point MFUBENCH_CACHE at a folder on a larger disk"
        )
    with _deepspeed_off_the_gpu(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)


@contextmanager
def _deepspeed_off_the_gpu() -> Iterator[None]:
    """Keep DeepSpeed, imported by transformers when it saves a model, off the GPU and off stdout."""
    before = dict(os.environ)
    os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        yield
    finally:  # DeepSpeed's variables would reach the framework
        os.environ.clear()
        os.environ.update(before)
