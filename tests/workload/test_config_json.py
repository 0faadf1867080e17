"""A model read from a hub's config.json: as the file lies there, the text part of a multimodal one, and what is no config."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mfubench.config import ConfigError, Experiment
from mfubench.flops.step import step_flops
from mfubench.workload import hub
from mfubench.workload.architecture import config_of
from mfubench.workload.config_json import _plain_types, text_part_note, with_architecture

QWEN3 = {  # Qwen3-4B's file, key by key; its parameters are published: 4.0 billion, 3.6 without the embedding
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560, "initializer_range": 0.02,
    "intermediate_size": 9728, "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
GEMMA3 = {  # gemma-3-1b's, whose class has no field sliding_window_pattern
    "attn_logit_softcapping": None, "cache_implementation": "hybrid", "eos_token_id": [1, 106], "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
    "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "transformers_version": "4.50.0.dev0",
    "vocab_size": 262144,
}  # fmt: skip
SMALL = {"vocab_size": 8192, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}


@pytest.fixture
def read(tmp_path: Path, compose: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """Write a config.json and compose model=custom of it."""

    def experiment_of(content: Any, *overrides: str, name: str = "my-model/config.json") -> Experiment:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        composed = compose("model=custom", "batch_size=1", "sequence_length=4096", *overrides)
        return with_architecture(replace(composed, model=replace(composed.model, config_file=str(file))))

    return experiment_of


def test_a_hubs_file_is_counted_as_it_lies_there(read: Callable[..., Experiment]) -> None:
    experiment = read(QWEN3)
    layer = 2560 * 128 * (2 * 32 + 2 * 8) + 3 * 2560 * 9728
    products = 36 * layer + 2560 * 151936
    assert experiment.model.name == "my-model"
    assert step_flops(experiment).model_flops == 6 * 4096 * products + 12 * 36 * 32 * 128 * 4096**2
    assert step_flops(experiment).parameters == 4_022_468_096


def test_a_key_that_the_class_has_no_field_for_is_read(read: Callable[..., Experiment]) -> None:
    step = step_flops(read(GEMMA3, name="gemma-3-1b.json"))
    assert (step.model_flops, step.model_flops_causal) == (29_930_016_473_088, 25_513_886_220_288)


def test_a_key_that_the_user_types_is_laid_over_the_file_and_checked(read: Callable[..., Experiment]) -> None:
    assert read(GEMMA3, "+model.architecture.num_hidden_layers=6").model.architecture["num_hidden_layers"] == 6
    with pytest.raises(ConfigError, match=r"num_hidden_layer'.*did you mean num_hidden_layers"):
        read(GEMMA3, "+model.architecture.num_hidden_layer=6")


@pytest.mark.parametrize(
    ("path", "content", "name"),
    [
        ("config.json", {"_name_or_path": "meta-llama/Llama-2-7b-hf"}, "Llama-2-7b-hf"),
        ("gemma 3.json", {}, "gemma-3"),
        ("models--Qwen--Qwen3-8B/snapshots/abc/config.json", {}, "Qwen3-8B"),
    ],
)
def test_the_name_is_taken_from_the_file(
    read: Callable[..., Experiment], tmp_path: Path, path: str, content: dict[str, Any], name: str
) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    assert read({**SMALL, **content, "model_type": "llama"}, name=path).model.name == name


MULTIMODAL = {
    "qwen2_5_vl": {"model_type": "qwen2_5_vl", **SMALL, "rope_scaling": MROPE, "vision_config": VISION},  # flat
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text",
            **SMALL,
            "head_dim": 16,
            "rope_scaling": {**MROPE, "type": "default"},
        },
        "vision_config": {**VISION, "deepstack_visual_indexes": [0]},
    },
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", **SMALL, "head_dim": 16, "sliding_window_pattern": 6},
        "vision_config": {"model_type": "siglip_vision_model"},
    },
    "mistral3": {"model_type": "mistral3", "text_config": {"model_type": "mistral", **SMALL, "head_dim": 16}},
    "glm4v": {
        "model_type": "glm4v",
        "tie_word_embeddings": False,
        "text_config": {"model_type": "glm4v_text", **SMALL, "pad_token_id": 0, "attention_bias": True, "head_dim": 16},
        "vision_config": VISION,
    },
}


@pytest.mark.parametrize("kind", MULTIMODAL)
def test_the_text_part_of_a_multimodal_model_is_taken_and_said(read: Callable[..., Experiment], kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModel

    model = read(MULTIMODAL[kind]).model
    assert model.name == "my-model-text-part" and "nothing here is about images" in str(text_part_note(model))
    settings = {key: value for key, value in MULTIMODAL[kind].items() if key != "model_type"}
    with torch.device("meta"):
        whole = AutoModel.from_config(AutoConfig.for_model(kind, **json.loads(json.dumps(settings))))
        part = AutoModel.from_config(config_of(model.architecture))
    of_text = {name: p.shape for name, p in whole.language_model.named_parameters()}
    assert {name: p.shape for name, p in part.named_parameters()} == of_text


def test_every_plain_type_has_a_causal_language_model() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert set(_plain_types().values()) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_images_are_not_trained(read: Callable[..., Experiment]) -> None:
    with pytest.raises(ConfigError, match="images aren't trained") as refused:
        read(MULTIMODAL["gemma3"], "model.weights=hub", "model.hub_id=google/gemma-3-4b-it")
    assert refused.value.instead == "model.weights=random"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
        ({"dim": 4096, "n_layers": 32}, "has no model_type"),
        ({"peft_type": "LORA", "base_model_name_or_path": "/models/llama"}, "is a LoRA adapter's"),
    ],
)
def test_what_is_no_config_is_said_with_the_right_command(
    read: Callable[..., Experiment], tmp_path: Path, content: Any, problem: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=problem) as refused:
        read(content, name="params.json")
    beside = "/models/llama/config.json" if "peft_type" in content else str(tmp_path / "config.json")
    screen = refused.value.screen(["model=custom", f"model.config_file={tmp_path}/params.json"])
    assert screen.splitlines()[-1] == f"  try       python -m mfubench model=custom model.config_file={beside}"


def test_an_adapter_of_a_model_on_the_hub_leads_to_that_model(read: Callable[..., Experiment]) -> None:
    with pytest.raises(ConfigError) as refused:
        read({"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-8B"}, name="adapter_config.json")
    assert refused.value.instead == "model.config_file=null model.hub_id=Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("overrides", "problem", "instead"),
    [
        (["model.config_file=Qwen/Qwen3-8B"], "No such file", "model.config_file=null model.hub_id=Qwen/Qwen3-8B"),
        (["model.config_file=nowhere.json"], "No such file", "model.config_file=config.json"),
        (["model.config_file=/tmp"], "is a folder", "model.config_file=/tmp/config.json"),
        ([], "has no architecture", "model=custom model.config_file=config.json"),
        (["model=llama-tiny", "model.config_file=config.json"], "an architecture of its own", "model=custom"),
    ],
)
def test_a_wrong_setting_is_said_with_the_right_one(
    compose: Callable[..., Experiment], overrides: list[str], problem: str, instead: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        with_architecture(compose(*(overrides if "model=llama-tiny" in overrides else ["model=custom", *overrides])))
    assert shlex.split(str(refused.value.instead)) == instead.split()


def test_offline_the_hubs_config_is_one_line_that_offers_the_file(
    compose: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"can't be fetched.*HF_HUB_OFFLINE is set") as refused:
        with_architecture(compose("model=custom", "model.hub_id=Qwen/Qwen3-9B"))
    assert refused.value.instead == "model=custom model.config_file=config.json"


def test_a_cached_config_of_the_hub_is_used_without_a_hub(
    compose: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "models--Qwen--Qwen3-10B" / "snapshots" / "abc" / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({**SMALL, "model_type": "llama"}))
    monkeypatch.setattr("mfubench.workload.config_json.fetch_config", lambda *_: config)
    model = with_architecture(compose("model=custom", "model.hub_id=Qwen/Qwen3-10B")).model
    assert (model.name, model.architecture["hidden_size"], hub.CONFIG_JSON) == ("Qwen3-10B", 64, "config.json")
