"""The model's twin on the meta device: shapes without data. In: its config and mode. Out: a model ready to be traced.

What a user got wrong about the model shows here, before anything is started: sizes that no model can have, LoRA targets
that aren't in it, a sequence longer than its positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mfubench.config import Mode, WrongCombination


def within_positions(config: Any, sequence_length: int) -> None:
    """Raise ValueError for more positions than a model of `config` has."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and sequence_length > positions:
        raise ValueError(
            f"sequence_length={sequence_length} is beyond the {positions} positions of this model; give at most "
            f"sequence_length={positions}, or raise model.architecture.max_position_embeddings"
        )


def build(config: Any, mode: Mode) -> Any:
    """A model of `config` on the meta device, in training mode, trained as `mode` says; eager, nothing recomputed.

    Raises ValueError for values that no model can be made of, and for LoRA targets that the model doesn't have.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"model.architecture: transformers can't make a model of it: {error}") from error
        if mode.name == "lora":
            model = _with_lora(model, mode)
    return model.train()


def checkpoint(model: Any, recomputation: str) -> None:
    """Make the model recompute its blocks: `recomputation` is reentrant or non_reentrant.

    The first block's input then requires a gradient, as every framework arranges it under LoRA: without it no gradient
    would reach the blocks. In full training it has one anyway, the embedding's.
    """
    model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
    model.enable_input_require_grads()


def _with_lora(model: Any, mode: Mode) -> Any:
    from peft import LoraConfig, get_peft_model

    assert mode.rank is not None
    targets = list(mode.target_modules or [])
    _check_targets(model, targets)
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=mode.rank,
            lora_dropout=0.0,  # whatever the run's is: it makes no product, and would make counting slower
            target_modules=targets,
        ),
        autocast_adapter_dtype=False,
    )


def _check_targets(model: Any, targets: Sequence[str]) -> None:
    """peft ignores a target that matches nothing as long as another one matches something."""
    import torch

    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unmatched = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in linear)]
    if unmatched or not targets:
        there = dict.fromkeys(name.rpartition(".")[2] for name in linear)
        raise WrongCombination(
            f"mode.target_modules: {', '.join(unmatched)} match no linear layer"
            if unmatched
            else "LoRA needs a target",
            given=f"mode.target_modules=[{','.join(targets)}]",
            expected=f"some of this model's linear layers: {', '.join(there)}",
            instead=f"mode.target_modules=[{','.join(list(there)[:2])}]",
        )
