"""Read a model's architecture from the config.json of a hub: a user's file, or fetched.

Of a multimodal model the text part is taken: it is what a causal language model trains.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mfubench.config import ConfigError, Experiment, Model
from mfubench.config.errors import nearest, quoted
from mfubench.files.paths import CONF
from mfubench.workload.architecture import FROM_FILE, check_keys
from mfubench.workload.hub import CONFIG_JSON, fetch_config

CUSTOM = "custom"  # the option of conf/model without an architecture
TEXT_PART = "-text-part"  # ends the name of a model that is one
TEXT_KEYS = ("text_config", "llm_config", "language_config", "thinker_config")  # of a multimodal config.json
OTHER_PARTS = ("vision_config", "audio_config")
# Keys of a checkpoint, of code on the hub, and of what `precision` decides.
LEFT_OUT = ("_name_or_path", "auto_map", "quantization_config", "compression_config", "torch_dtype", "dtype")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?<!\.json)")
ODD = re.compile(r"[^\w.-]+", re.ASCII)  # in the name of a folder
ON_HUB = "model.config_file=null model.hub_id="
EXPECTED = f"the {CONFIG_JSON} of a model, with its model_type"


def with_architecture(experiment: Experiment) -> Experiment:
    """The experiment with its model's architecture and name from a config.json, if the model is read from one.

    Raises ConfigError if there is no such file, if it isn't a model's, or for a misspelt key beside it.
    """
    model, file = experiment.model, _file_of(experiment.model)
    content = model.architecture if file is None else _read(file)
    if file is None and not _is_multimodal(content):
        return experiment
    name, architecture = model.name, _text_part(content)
    if file is not None:
        check_keys(model.architecture, str(model.architecture.get("model_type", architecture["model_type"])))
        architecture = {FROM_FILE: "unknown", **architecture, **model.architecture}
        name = _name(file, content) if name == CUSTOM else name
    if _is_multimodal(content):
        name += TEXT_PART
        if model.weights == "hub":
            problem = f"of {model.hub_id} only the text part is built: images aren't trained"
            right = "model.weights=random"
            raise ConfigError(problem, given="model.weights=hub", expected="random weights", instead=right)
    return replace(experiment, model=replace(model, name=name, architecture=architecture))


def text_part_note(model: Model) -> str | None:
    """The sentence for a reader of figures of a multimodal model's text part; None for another model."""
    part = f"only the text part of the multimodal model is built and counted, as {model.architecture.get('model_type')}"
    return f"{model.name}: {part}; nothing here is about images" if model.name.endswith(TEXT_PART) else None


def _file_of(model: Model) -> Path | None:
    """The config.json that the model is to be read from; None if it has an architecture of its own."""
    own = model.name != CUSTOM and (CONF / "model" / f"{model.name}.yaml").is_file()
    given = f"model={model.name}"
    if own and model.config_file is not None:
        problem, expected = f"{model.name} has an architecture of its own", f"model={CUSTOM}, which has none"
        raise ConfigError(problem, given=given, expected=expected, instead=f"model={CUSTOM}")
    if model.config_file is not None:
        return Path(model.config_file).expanduser()
    if own or "model_type" in model.architecture:
        return None
    if model.hub_id is None:
        expected = f"model.config_file=PATH of a {CONFIG_JSON}, or model.hub_id=OWNER/NAME of the hub"
        right = f"model={CUSTOM} {_file_setting(CONFIG_JSON)}"
        raise ConfigError("the model has no architecture", given=given, expected=expected, instead=right)
    return fetch_config(model.hub_id, model.revision)


def _read(file: Path) -> Mapping[str, Any]:
    """Read a config.json. Raises ConfigError if it isn't a model's."""
    beside = (file if file.is_dir() else file.parent) / CONFIG_JSON
    found = _file_setting(beside if beside.is_file() and beside != file else CONFIG_JSON)

    def refused(problem: str, right: str = found) -> ConfigError:
        return ConfigError(f"{file} {problem}", given=f"model.config_file={file}", expected=EXPECTED, instead=right)

    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except IsADirectoryError as error:
        raise refused("is a folder", _file_setting(beside)) from error
    except OSError as error:
        alike = nearest(file.name, (other.name for other in file.parent.glob("*.json")))
        right = ON_HUB + str(file) if HUB_ID.fullmatch(str(file)) else found
        right = _file_setting(file.with_name(alike[0])) if alike else right
        raise refused(f"can't be read: {error.strerror}", right) from error
    except ValueError as error:  # of JSON, or of UTF-8
        raise refused(f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise refused("is no JSON object")
    if "peft_type" in content:
        base = str(content.get("base_model_name_or_path"))
        on_hub = HUB_ID.fullmatch(base) and not Path(base).is_dir()
        right = ON_HUB + base if on_hub else _file_setting(Path(base) / CONFIG_JSON)
        raise refused(f"is a LoRA adapter's, and its model is {base}", right)
    if "model_type" not in _text_part(content):
        raise refused("has no model_type")
    return content


def _file_setting(path: Path | str) -> str:
    return shlex.quote(f"model.config_file={quoted(str(path))}")


@cache
def _plain_types() -> Mapping[str, str]:
    """The model_type of a text part without a model of its own → the one that has the same layers."""
    read: dict[str, str] = yaml.safe_load((CONF / "text_parts.yaml").read_text(encoding="utf-8"))
    return read


def _is_multimodal(content: Mapping[str, Any]) -> bool:
    parts = any(isinstance(content.get(key), Mapping) for key in (*TEXT_KEYS, *OTHER_PARTS))
    return parts or content.get("model_type") in _plain_types()


def _text_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a model's text part, of a model without other parts all, but for LEFT_OUT."""
    for inner in (content[key] for key in TEXT_KEYS if isinstance(content.get(key), Mapping)):
        tied = {key: content[key] for key in ("tie_word_embeddings",) if key in content}
        return _text_part({**tied, **inner})
    text = {key: value for key, value in content.items() if key not in (*LEFT_OUT, *OTHER_PARTS)}
    if (plain := _plain_types().get(str(text.get("model_type")))) is not None:
        text["model_type"] = plain
        for key in ("rope_scaling", "rope_parameters"):
            if "mrope_section" in (rope := text.get(key) or {}):
                text[key] = {"rope_type": "default"} | {k: v for k, v in rope.items() if k == "rope_theta"}
    return text


def _name(file: Path, content: Mapping[str, Any]) -> str:
    """A name for tables and folders: of the model on the hub, of the file, or of its folder, whichever says most."""
    original = str(content.get("_name_or_path"))
    if (cached := re.search(r"models--[^/]+--([^/]+)/snapshots/", str(file.absolute()))) is not None:
        name = cached[1]
    elif file.name != CONFIG_JSON:
        name = file.stem
    else:
        name = original.rpartition("/")[2] if HUB_ID.fullmatch(original) else file.parent.name
    return ODD.sub("-", name).strip("-.") or str(content.get("model_type"))
