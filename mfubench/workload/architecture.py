"""Turn a model's architecture, in config.json's keys, into transformers' config object."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def config_of(architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """The config object of an `architecture`.

    Raises ValueError for a model type without a causal language model, for misspelt keys (each with the nearest valid
    ones), and for values that transformers rejects.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    settings = copy.deepcopy(dict(architecture))  # transformers completes nested values in place
    model_type = settings.pop("model_type", None)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"model.architecture.model_type={model_type}: transformers has no causal language model of that type"
            + _near(str(model_type), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        )
    try:
        config = AutoConfig.for_model(model_type, **settings)
    except (StrictDataclassError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"model.architecture: transformers rejects it as a {model_type} config: {error}") from error
    known = type(config)().to_dict()
    # transformers keeps unknown keys, and some models read them; but one very like a known key is a slip.
    for key in settings.keys() & config.to_dict().keys() - known.keys():
        if not _is_read(key, type(config)) and (slip := _near(key, known, cutoff=0.85)):
            raise ValueError(f"model.architecture.{key}: no setting of {model_type}{slip}")
    return config


def _is_read(key: str, kind: type) -> bool:
    """True if the code of a config class names `key`, as it does keys that it reads without keeping them."""
    return f'"{key}"' in inspect.getsource(inspect.getmodule(kind) or kind)


def _near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""
