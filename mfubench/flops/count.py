"""Count a model's FLOPs: its Profile, or the FlopCount of one shape, from architecture, mode, recomputation and attention.

The traced shapes are small and odd, so that products not proportional to the positions differ between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mfubench.config import Mode
from mfubench.config.vocabulary import ATTENTIONS, MODES, RECOMPUTATIONS
from mfubench.flops import meta_model
from mfubench.flops.breakdown import SURPLUS, OperatorPlace
from mfubench.flops.conventions import architecture_quantities
from mfubench.flops.counts import FlopCount
from mfubench.flops.profile import Profile
from mfubench.flops.recurrence import check_recurrences
from mfubench.flops.trace import Trace, trace
from mfubench.workload.architecture import config_of, in_one_line, setting_of

# One product per token and expert: the work of transformers' default, a grouped product, which has no formula.
EXPERTS = "batched_mm"
TRACED_SHAPE = {"batch_size": 1, "sequence_length": 8}
SECOND_TRACED_SHAPE = {"batch_size": 3, "sequence_length": 5}


def count(
    architecture: Mapping[str, Any],
    mode: Mode,
    *,
    recomputation: str,
    attention: str,
    batch_size: int,
    sequence_length: int,
) -> FlopCount:
    """Count one micro-batch of [batch_size, sequence_length] positions, every label valid.

    Raises ValueError as `profile` does, and for a shape that the model can't read.
    """
    counted = profile(architecture, mode, recomputation=recomputation, attention=attention)
    counted.check(batch_size, sequence_length)
    return counted.of(batch_size, sequence_length)


def profile(architecture: Mapping[str, Any], mode: Mode, *, recomputation: str, attention: str) -> Profile:
    """Profile the model's work in a micro-batch of any shape.

    Dropout, norms and other elementwise work cost no FLOPs. A token passes through as many experts as the model says,
    however they are distributed.

    Args:
        architecture: transformers' config.json by its own keys.
        mode: full, or LoRA on any linear layers.
        recomputation: none | reentrant | non_reentrant.
        attention: sdpa | eager | flash_attention_2.

    Raises:
        ValueError: The model or an option is impossible (see `architecture.config_of` and `meta_model`), or the model's
            plain products aren't proportional to the positions.
    """
    _check_count_options(mode, recomputation, attention)
    with meta_model.isolated(), in_one_line(architecture):
        config = config_of(architecture)
        model = meta_model.bare_model(config, EXPERTS)
        check_recurrences(model)
        meta_model.check_attention(model, attention)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        sizes = architecture_quantities(config, model)
        repeated = None if meta_model.names_a_block(mode) else repetition(model)
        if repeated is not None:
            del repeated.blocks[2 * repeated.period :]
        if mode.has_adapters:
            model = meta_model.with_lora(model, mode)
        once = trace(model, **TRACED_SHAPE)
        needed = executed = _of_all_blocks(model, once, repeated)
        if recomputation != "none":
            meta_model.checkpoint(model, recomputation)
            once = trace(model, **TRACED_SHAPE)
            executed = _of_all_blocks(model, once, repeated)
        _check_proportional(once, trace(model, **SECOND_TRACED_SHAPE), config.model_type)
    adapters = needed.trainable_parameters if mode.has_adapters else 0
    return Profile(
        attention=attention,
        needed_products=_per_position({w: n for w, n in needed.products.items() if w[2] != SURPLUS}),
        executed_products=_per_position(executed.products),
        needed_attention=tuple(needed.attention_calls.items()),
        executed_attention=tuple(executed.attention_calls.items()),
        parameters=parameters + adapters,
        trainable_parameters=needed.trainable_parameters,
        uncounted=executed.uncounted,
        positions=meta_model.positions(config),
        sizes=sizes,
    )


def _of_all_blocks(model: Any, two: Trace, repeated: Repetition | None) -> Trace:
    """The trace of the whole model, from `two`, the trace of `model` with two repetitions of its repeated blocks."""
    if repeated is None:
        return two
    second = list(repeated.blocks[repeated.period :])
    del repeated.blocks[repeated.period :]
    one = trace(model, **TRACED_SHAPE)
    repeated.blocks.extend(second)
    times = repeated.times
    return Trace(
        products=extrapolated(one.products, two.products, times),
        attention_calls=extrapolated(one.attention_calls, two.attention_calls, times),
        uncounted=extrapolated(one.uncounted, two.uncounted, times),
        trainable_parameters=one.trainable_parameters
        + (times - 1) * (two.trainable_parameters - one.trainable_parameters),
        by_class=two.by_class,
    )


def _per_position(products: Mapping[OperatorPlace, int]) -> dict[str, int]:
    traced = TRACED_SHAPE["batch_size"] * TRACED_SHAPE["sequence_length"]
    return {"/".join(place): flops // traced for place, flops in products.items()}


def _check_proportional(one: Trace, other: Trace, model_type: str) -> None:
    """Raise ValueError if products aren't proportional to the positions, as those of a model's own attention code."""
    few, many = (shape["batch_size"] * shape["sequence_length"] for shape in (TRACED_SHAPE, SECOND_TRACED_SHAPE))
    proportional = one.product_flops * many == other.product_flops * few
    calls = (one.attention_calls, one.uncounted_operators), (other.attention_calls, other.uncounted_operators)
    if not proportional or calls[0] != calls[1]:
        apart = [name for name, flops in other.by_class.items() if flops * few != one.by_class.get(name, 0) * many]
        raise ValueError(
            f"model.architecture.model_type={model_type} can't be counted: the products of {' and '.join(apart) or 'it'} "
            "aren't proportional to the positions of a micro-batch, and aren't made by transformers' attention functions"
        )


def _check_count_options(mode: Mode, recomputation: str, attention: str) -> None:
    for setting, value, choices in (
        ("mode", mode.name, MODES),
        ("gradient_checkpointing", recomputation, RECOMPUTATIONS),
        ("attention", attention, ATTENTIONS),
    ):
        if value not in choices:
            raise ValueError(f"{setting}={value} can't be counted; choose one of {', '.join(choices)}")
    if mode.has_adapters and (mode.rank or 0) < 1:
        raise ValueError(f"mode.rank={mode.rank} must be at least 1")


Signature = tuple[Any, ...]
AmountKey = TypeVar("AmountKey")


@dataclass(frozen=True)
class Repetition:
    """A model's blocks: `times` repetitions of the same `period` of them."""

    blocks: Any  # torch.nn.ModuleList
    period: int
    times: int


def repetition(model: Any) -> Repetition | None:
    """Find how the blocks of `model` repeat; None if they don't, or too seldom to save time."""
    import torch

    config = model.config.get_text_config()
    depth = setting_of(config, "num_hidden_layers")
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    blocks = next((module for module in lists if len(module) == depth), None)
    if blocks is None or _share_parameters(blocks):
        return None
    kinds = getattr(config, "layer_types", None) or [None] * len(blocks)
    signatures = [(kind, _signature(block)) for kind, block in zip(kinds, blocks, strict=False)]
    for period in range(1, len(signatures) // 3 + 1):
        if len(blocks) % period == 0 and signatures[period:] == signatures[:-period]:
            return Repetition(blocks, period, len(blocks) // period)
    return None


def extrapolated(one: Mapping[AmountKey, int], two: Mapping[AmountKey, int], times: int) -> dict[AmountKey, int]:
    """Amounts of a model with `times` repetitions, from those with one and with two; a missing amount is 0.

    The first repetition may differ from the others, as it does if nothing in front of it is trained.
    """
    firsts = {key: one.get(key, 0) for key in (*one, *two)}
    return {key: first + (times - 1) * (two.get(key, 0) - first) for key, first in firsts.items()}


def _share_parameters(blocks: Any) -> bool:
    parameters = [id(parameter) for block in blocks for parameter in block.parameters()]
    return len(set(parameters)) < len(parameters)


def _signature(block: Any) -> Signature:
    """Everything that distinguishes a block but its number: classes, plain settings and the shapes of its parameters."""
    return tuple(
        (name, type(module), _plain_settings(module), _shapes(module)) for name, module in block.named_modules()
    )


def _plain_settings(module: Any) -> Signature:
    plain = (int, float, str, type(None))
    settings = ((name, value) for name, value in vars(module).items() if isinstance(value, plain))
    return tuple((name, value) for name, value in settings if name != "layer_idx")


def _shapes(module: Any) -> Signature:
    parameters = module.named_parameters(recurse=False)
    return tuple((name, tuple(parameter.shape), parameter.requires_grad) for name, parameter in parameters)
