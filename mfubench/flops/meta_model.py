"""Build the model on the meta device: shapes without data, ready to be traced.

A user's mistakes about the model show here, before anything is started: impossible sizes, an attention that the model
can't use, LoRA targets that it doesn't have.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from mfubench.config import Mode, WrongCombination
from mfubench.config.schema import ALL_LINEAR
from mfubench.flops.breakdown import LM_HEAD, group_of
from mfubench.workload.architecture import setting_of


def positions(config: Any) -> int | None:
    """The most positions that a model of `config` allows in a sequence; None if there is no limit."""
    return setting_of(config.get_text_config(), "max_position_embeddings")


def bare_model(config: Any, experts: str | None = None) -> Any:
    """Build a model of `config` on the meta device, in training mode, fully trained; eager, without checkpointing.

    `experts`: the implementation of a mixture's experts, None for transformers' default.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kinds = {"attn_implementation": "eager"} | ({} if experts is None else {"experts_implementation": experts})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, **kinds)
    return model.train()


def check_attention(model: Any, attention: str) -> None:
    """Raise ValueError if transformers refuses `attention` for this model, as it refuses SDPA with capped scores."""
    allowed = {"sdpa": model._supports_sdpa, "eager": True, "flash_attention_2": model._supports_flash_attn}
    if not allowed[attention]:
        kinds = [kind for kind, supported in allowed.items() if supported]
        raise WrongCombination(
            f"transformers has no {attention} for {model.config.model_type}",
            given=f"attention={attention}",
            expected=" or ".join(kinds),
            instead=f"attention={kinds[0]}",
        )


def names_a_block(mode: Mode) -> bool:
    """True if a LoRA target names a single block, as layers.3.self_attn.q_proj does, or may, as a regular expression."""
    if isinstance(mode.target_modules, str):
        return mode.target_modules != ALL_LINEAR
    return any(part.isdigit() for target in mode.target_modules or [] for part in target.split("."))


def checkpoint(model: Any, recomputation: str) -> None:
    """Turn on gradient checkpointing; `recomputation` is reentrant or non_reentrant. Raises ValueError if the model can't.

    The first block's input then requires a gradient, as every framework arranges it under LoRA: without it no gradient
    would reach the blocks. In full training it has one anyway, the embedding's.
    """
    if not model.supports_gradient_checkpointing:
        raise WrongCombination(
            f"transformers can't checkpoint the activations of {model.config.model_type}",
            given=f"gradient_checkpointing={recomputation}",
            expected="none",
            instead="gradient_checkpointing=none",
        )
    model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
    model.enable_input_require_grads()


def with_lora(model: Any, mode: Mode, dropout: float = 0.0) -> Any:
    """Add LoRA matrices to the targets and freeze all else. Raises ValueError for targets that the model doesn't have.

    Without the run's dropout, which is no product and would slow a count down, unless it is given.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    assert mode.rank is not None
    targets = mode.target_modules or []
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]  # its own
    _check_targets(linear, mode)
    _check_saved(dict(model.named_modules()), mode.modules_to_save or [])
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=mode.rank,
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=mode.modules_to_save or None,
    )
    with torch.device("meta"):
        try:
            adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
        except ValueError as error:
            if isinstance(targets, str):
                problem = f"PEFT can't adapt all that it matches: {error}"
                raise _targets_error(problem, targets, ALL_LINEAR, ALL_LINEAR) from error
            if not any("experts" in name.split(".") for name, _ in model.named_modules()):
                raise ValueError(f"mode.target_modules: {error}") from error
            # peft takes both or neither of two matrices that experts keep as one
            raise _beside_experts_error(model.config.model_type, linear, targets) from error
    if lora.target_parameters:
        raise _beside_experts_error(model.config.model_type, linear, targets)
    return adapted.train()


def _beside_experts_error(model_type: str, linear: Sequence[str], targets: Sequence[str]) -> WrongCombination:
    """The error for LoRA on experts: peft turns gate_proj and its like into their parameters, even if some blocks have an MLP."""
    beside = ("attention projections", LM_HEAD)
    right = list(dict.fromkeys(name.rpartition(".")[2] for name in linear if group_of(name) in beside))
    problem, expected = f"LoRA beside the experts of {model_type} can't be counted", f"some of {', '.join(right)}"
    return _targets_error(problem, targets, expected, f"[{','.join([t for t in targets if t in right] or right)}]")


def _check_targets(linear: Sequence[str], mode: Mode) -> None:
    """Raise if a target matches no linear layer: peft ignores it as long as another one matches."""
    targets = mode.target_modules or []
    one_by_one = {targets: targets} if isinstance(targets, str) else {target: [target] for target in targets}
    unmatched = [
        t for t, as_set in one_by_one.items() if not any(map(replace(mode, target_modules=as_set).adapts, linear))
    ]
    if unmatched or not targets:
        there = dict.fromkeys(name.rpartition(".")[2] for name in linear)
        right = [target for target in one_by_one if target not in unmatched] or list(there)[:2]
        problem = f"mode.target_modules: {', '.join(unmatched)} match no linear layer"
        expected = f"some of this model's linear layers: {', '.join(there)}"
        raise _targets_error(problem if unmatched else "LoRA needs a target", targets, expected, f"[{','.join(right)}]")


def _targets_error(problem: str, targets: str | Sequence[str], expected: str, right: str) -> WrongCombination:
    given = "mode.target_modules=" + (targets if isinstance(targets, str) else f"[{','.join(targets)}]")
    return WrongCombination(problem, given=given, expected=expected, instead=f"mode.target_modules={right}")


def _check_saved(modules: Iterable[str], saved: Sequence[str]) -> None:
    """Raise if a name of modules_to_save is none of the model: peft ignores it."""
    last = dict.fromkeys(name.rpartition(".")[2] for name in modules)
    if wrong := [name for name in saved if name not in last]:
        problem, given = f"the model has no module {wrong[0]}", f"mode.modules_to_save=[{','.join(saved)}]"
        raise WrongCombination(problem, given=given, expected=f"some of {', '.join(filter(str.islower, last))}")


@contextmanager
def isolated() -> Iterator[None]:
    """A context with gradients on, random state restored and logging off: libraries' messages would not be about the run."""
    import torch

    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(disabled)
