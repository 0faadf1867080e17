"""The model on the meta device: shapes without data, ready to be traced.

What a user got wrong about the model shows here, before anything is started: sizes that no model can have, an attention
that it can't use, LoRA targets that aren't in it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mfubench.config import Mode, WrongCombination
from mfubench.flops.breakdown import LM_HEAD, group_of
from mfubench.flops.profile import check_positions


def positions(config: Any) -> int | None:
    """The most positions that a sequence of a model of `config` may have; None where nothing limits them."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_sequence_length(config: Any, sequence_length: int) -> None:
    """Raise ValueError for more positions than a model of `config` has."""
    check_positions(positions(config), sequence_length)


def build_model(config: Any, mode: Mode) -> Any:
    """A model of `config` on the meta device, in training mode, trained as `mode` says; eager, nothing recomputed.

    Raises ValueError for values that no model can be made of, and for LoRA targets that the model doesn't have.
    """
    model = bare_model(config)
    return with_lora(model, mode) if mode.has_adapters else model


def bare_model(config: Any, experts: str | None = None) -> Any:
    """As `build_model`, all of it trained; `experts` is how a mixture's are computed, None as transformers does by default."""
    import torch
    from transformers import AutoModelForCausalLM

    kinds = {"attn_implementation": "eager"} | ({} if experts is None else {"experts_implementation": experts})
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, **kinds)
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"model.architecture: transformers can't make a model of it: {error}") from error
    return model.train()


def check_attention(model: Any, attention: str) -> None:
    """Raise ValueError for an `attention` that transformers refuses for this model, such as SDPA where scores are capped."""
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
    """True if a LoRA target stands in one block only, as layers.3.self_attn.q_proj does."""
    return any(part.isdigit() for target in mode.target_modules or [] for part in target.split("."))


def checkpoint(model: Any, recomputation: str) -> None:
    """Make the model recompute its blocks: `recomputation` is reentrant or non_reentrant. ValueError for one that can't.

    The first block's input then requires a gradient, as every framework arranges it under LoRA: without it no gradient
    would reach the blocks. In full training it has one anyway, the embedding's.
    """
    if not model.supports_gradient_checkpointing:
        raise WrongCombination(
            f"transformers recomputes nothing of {model.config.model_type}",
            given=f"gradient_checkpointing={recomputation}",
            expected="none",
            instead="gradient_checkpointing=none",
        )
    model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
    model.enable_input_require_grads()


def with_lora(model: Any, mode: Mode) -> Any:
    """The model with LoRA matrices beside its targets, all else frozen. Raises ValueError for targets that it hasn't."""
    import torch
    from peft import LoraConfig, get_peft_model

    assert mode.rank is not None
    targets = list(mode.target_modules or [])
    linear = _linear(model)
    _check_targets(linear, targets)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=mode.rank,
        lora_dropout=0.0,  # whatever the run's is: it makes no product, and would make counting slower
        target_modules=targets,
    )
    with torch.device("meta"):
        try:
            adapted = get_peft_model(model, lora, autocast_adapter_dtype=False)
        except ValueError as error:  # of two matrices that a mixture's experts keep as one, it takes both or neither
            raise _beside_experts_error(model.config.model_type, linear, targets) from error
    if lora.target_parameters:
        raise _beside_experts_error(model.config.model_type, linear, targets)
    return adapted.train()


def _beside_experts_error(model_type: str, linear: Sequence[str], targets: Sequence[str]) -> WrongCombination:
    """peft makes gate_proj and its like parameters of a mixture's experts, where only some blocks have an MLP, too."""
    beside = ("attention projections", LM_HEAD)
    right = list(dict.fromkeys(name.rpartition(".")[2] for name in linear if group_of(name) in beside))
    return WrongCombination(
        f"LoRA beside the experts of {model_type} can't be counted",
        given=f"mode.target_modules=[{','.join(targets)}]",
        expected=f"some of {', '.join(right)}",
        instead=f"mode.target_modules=[{','.join([t for t in targets if t in right] or right)}]",
    )


def _linear(model: Any) -> list[str]:
    """The names of the model's own linear layers."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def _check_targets(linear: Sequence[str], targets: Sequence[str]) -> None:
    """peft ignores a target that matches nothing as long as another one matches something."""
    unmatched = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in linear)]
    if unmatched or not targets:
        there = dict.fromkeys(name.rpartition(".")[2] for name in linear)
        right = [target for target in targets if target not in unmatched]
        raise WrongCombination(
            f"mode.target_modules: {', '.join(unmatched)} match no linear layer"
            if unmatched
            else "LoRA needs a target",
            given=f"mode.target_modules=[{','.join(targets)}]",
            expected=f"some of this model's linear layers: {', '.join(there)}",
            instead=f"mode.target_modules=[{','.join(right or list(there)[:2])}]",
        )


@contextmanager
def isolated() -> Iterator[None]:
    """Gradients on, random state kept, and nothing printed: what libraries say of a meta model is not about the run."""
    import torch
    import transformers  # noqa: F401  # sets its logger's level when it is first imported: before levels are noted

    loggers = [logging.getLogger(name) for name in ("transformers", "peft", "torch", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
