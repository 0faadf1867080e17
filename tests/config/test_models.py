"""The models of conf/model/: their architectures have the parameter counts that are published for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from architectures import PARAMETERS

from mfubench.config import Model
from mfubench.workload.architecture import config_of

FOLDER = Path(__file__).parents[2] / "conf" / "model"


def model_of(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_architecture_has_the_published_number_of_parameters(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(model_of(name)["architecture"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_file_has_the_keys_of_the_schema_and_the_name_of_its_file(name: str) -> None:
    model = model_of(name)
    assert list(model) == [field.name for field in dataclasses.fields(Model) if field.name != "config_file"]
    assert model["name"] == name


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_key_of_an_architecture_is_one_that_transformers_keeps_unchanged(name: str) -> None:
    architecture = model_of(name)["architecture"]
    config = config_of(architecture)
    known = {field.name for field in dataclasses.fields(type(config))}
    if name == "qwen3-30b-a3b":
        known.add("head_dim")  # its model reads it, though its config doesn't declare it
    assert set(architecture) - {"model_type"} <= known
    for key in architecture.keys() - {"sliding_window"}:  # Qwen's config drops the window that isn't used
        assert getattr(config, key) == architecture[key], key


@pytest.mark.parametrize("name", sorted(PARAMETERS.keys() - {"gemma-2-9b"}))
def test_a_model_has_no_sliding_window_in_use(name: str) -> None:
    config = config_of(model_of(name)["architecture"])
    assert getattr(config, "sliding_window", None) is None
    assert set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}


def test_every_other_block_of_gemma_2_has_a_sliding_window() -> None:
    config = config_of(model_of("gemma-2-9b")["architecture"])
    assert config.sliding_window == 4096
    assert config.layer_types == ["sliding_attention", "full_attention"] * 21
