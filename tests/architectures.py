"""The architectures of conf/model/, as they stand there, and how many parameters they have."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import yaml

from mfubench.files.paths import CONF

# As published for each.
PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "gemma-2-9b": 9_241_705_984,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
}


def architecture_of(model: str) -> dict[str, Any]:
    """In the words of transformers' config.json."""
    return yaml.safe_load((CONF / "model" / f"{model}.yaml").read_text(encoding="utf-8"))["architecture"]


# Those with sizes of their own; `custom` takes them from the user's file.
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if architecture_of(path.stem))


# A smaller model than the default, as overrides: for tests that are about the path of a run, not about its figures.
SMALLER = (
    "model.architecture.hidden_size=96",
    "model.architecture.intermediate_size=192",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.vocab_size=8192",
    "sequence_length=64",
)

# torch's C++ build, which makes DeepSpeed's operator for CPUs, doesn't quote the folder that it links against.
BUILDS_OPERATORS = pytest.mark.skipif(
    " " in sys.prefix, reason="torch can't build DeepSpeed's operator in a path with a space"
)
