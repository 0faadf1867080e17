"""Turn a model's architecture, in config.json's keys, into transformers' config object."""

from __future__ import annotations

import copy
import difflib
import inspect
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mfubench.config import ConfigError
from mfubench.files.paths import CONF, PACKAGE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SAME_ARCHITECTURE = CONF / "same_architecture.yaml"
FROM_FILE = "transformers_version"  # a key of every config.json that transformers wrote, and of none written by hand


def config_of(architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """The config object of an `architecture`.

    Raises ValueError for a model type without a causal language model, for misspelt keys (each with the nearest valid
    ones) unless FROM_FILE is among them, and for values that transformers rejects.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    settings = copy.deepcopy(dict(architecture))  # transformers completes nested values in place
    model_type = settings.pop("model_type", None)
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"model.architecture.model_type={model_type}: transformers has no causal language model of that type"
            + (
                _same(str(model_type))
                or _near(str(model_type), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
                or ", and none by a name like it"
            )
        )
    with in_one_line(architecture):
        config = AutoConfig.for_model(model_type, **settings)
        slip = None if FROM_FILE in settings else _slip(settings.keys() & config.to_dict().keys(), type(config))
    if slip is not None:
        raise ValueError(f"model.architecture.{slip[0]}: no setting of {model_type}{slip[1]}")
    return config


def check_keys(architecture: Mapping[str, Any], model_type: str) -> None:
    """Raise ConfigError for a key that is very like one of `model_type`, and none; the values aren't looked at."""
    if architecture.keys() - {"model_type"}:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        if model_type in CONFIG_MAPPING and (slip := _slip(architecture, CONFIG_MAPPING[model_type])):
            problem, given = f"{model_type} has no setting {slip[0]!r}", f"model.architecture.{slip[0]}"
            raise ConfigError(problem, given=given, expected=f"a key of its config{slip[1]}")


def _slip(keys: Iterable[str], kind: type[PreTrainedConfig]) -> tuple[str, str] | None:
    """The first key that is very like one of `kind`, and the hint. Other unknown keys are kept: some models read them."""
    known = kind().to_dict()
    for key in sorted(set(keys) - known.keys()):
        alike = [name for name in known if not _has_another_word(key, name)]
        if not _is_read(key, kind) and (hint := _near(key, alike, cutoff=0.85)):
            return key, hint
    return None


@contextmanager
def in_one_line(architecture: Mapping[str, Any]) -> Iterator[None]:
    """Turn an exception out of transformers' or torch's code about this architecture into a ValueError of one line.

    It names the class whose code it was. A ValueError raised by mfubench's code, which transformers may have called, passes.
    """
    try:
        yield
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        files = [Path(frame.f_code.co_filename) for frame in frames]
        if isinstance(error, ValueError) and files[-1].is_relative_to(PACKAGE):
            raise
        theirs = [frame for frame, file in zip(frames, files, strict=True) if {"transformers", "torch"} & {*file.parts}]
        if not theirs:
            raise
        where = next(
            (f for f in reversed(theirs) if f.f_code.co_qualname.endswith((".forward", ".__init__"))), theirs[-1]
        )
        this = f"transformers {version('transformers')} can't build or run this {architecture.get('model_type')}"
        raise ValueError(
            f"model.architecture: {this}: "
            f"{type(error).__name__}: {textwrap.shorten(str(error), 300)} (in {where.f_code.co_qualname})"
        ) from error


def setting_of(config: Any, name: str, varying: Any = None) -> Any:
    """A config's setting; None if it has none by that name, `varying` if it differs between the layers."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # what transformers raises then
        return varying


def _is_read(key: str, kind: type) -> bool:
    """True if the code of a config class names `key`, as it does keys that it reads without keeping them."""
    return f'"{key}"' in inspect.getsource(inspect.getmodule(kind) or kind)


def _has_another_word(key: str, name: str) -> bool:
    """True if `key` has a word that `name` hasn't: time_step_min beside time_step_limit, mtp_num_layers beside num_layers."""
    ours, theirs = key.split("_"), name.split("_")
    pairs = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else ()
    in_front = len(ours) > len(theirs) and ours[-len(theirs) :] == theirs and all(ours)
    return in_front or any(a[:1] != b[:1] and difflib.SequenceMatcher(None, a, b).ratio() < 0.6 for a, b in pairs)


def _same(model_type: str) -> str:
    same = yaml.safe_load(SAME_ARCHITECTURE.read_text(encoding="utf-8")).get(model_type)
    return f"; it has the architecture of {same}: give model.architecture.model_type={same}" if same else ""


def _near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""
