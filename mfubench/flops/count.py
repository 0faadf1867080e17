"""Counting a model. In: architecture, mode, recomputation, attention. Out: its Profile, or the FlopCount of one shape.

The shapes that are traced are small and odd: a product that isn't proportional to the positions shows between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfubench.config import Mode
from mfubench.config.validate import ATTENTIONS
from mfubench.flops.blocks import Repetition, extrapolated, extrapolated_each, repetition, shortened
from mfubench.flops.breakdown import Place
from mfubench.flops.conventions import sizes_of
from mfubench.flops.isolation import isolated
from mfubench.flops.shapes import FlopCount, Profile
from mfubench.flops.trace import Trace, trace
from mfubench.flops.twin import bare, check_attention, checkpoint, names_a_block, positions, with_lora
from mfubench.workload.architecture import config_of

MODES = ("full", "lora", "qlora")
RECOMPUTATIONS = ("none", "reentrant", "non_reentrant")
# One product per token and expert; transformers' default, a grouped product, has no formula and does the same work.
EXPERTS = "batched_mm"
TRACED = {"batch_size": 1, "sequence_length": 8}
TRACED_AGAIN = {"batch_size": 3, "sequence_length": 5}


def count(
    architecture: Mapping[str, Any],
    mode: Mode,
    *,
    recomputation: str,
    attention: str,
    batch_size: int,
    sequence_length: int,
) -> FlopCount:
    """The count of one micro-batch of [batch_size, sequence_length] positions, every label valid.

    Raises ValueError as `profile` does, and for a shape that the model can't read.
    """
    counted = profile(architecture, mode, recomputation=recomputation, attention=attention)
    counted.check(batch_size, sequence_length)
    return counted.of(batch_size, sequence_length)


def profile(architecture: Mapping[str, Any], mode: Mode, *, recomputation: str, attention: str) -> Profile:
    """What the model does in a micro-batch of any shape.

    `architecture`: transformers' config.json by its own keys. `recomputation`: none | reentrant | non_reentrant.
    `attention`: sdpa | eager | flash_attention_2. Dropout, norms and other elementwise work cost no FLOPs. A token passes
    through as many experts of a mixture as the model says, however they are shared out.
    Raises ValueError for what the model or the options can't be (see `architecture.config_of` and `twin`), and for a
    model whose plain products aren't proportional to the positions.
    """
    _check(mode, recomputation, attention)
    with isolated():
        config = config_of(architecture)
        model = bare(config, EXPERTS)
        check_attention(model, attention)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        sizes = sizes_of(config, model)
        repeated = None if names_a_block(mode) else repetition(model)
        if repeated is not None:
            del repeated.blocks[2 * repeated.period :]
        if mode.has_adapters:
            model = with_lora(model, mode)
        once = trace(model, **TRACED)
        needed = executed = _of_all_blocks(model, once, repeated)
        if recomputation != "none":
            checkpoint(model, recomputation)
            once = trace(model, **TRACED)
            executed = _of_all_blocks(model, once, repeated)
        _check_proportional(once, trace(model, **TRACED_AGAIN), config.model_type)
    adapters = needed.trainable_parameters if mode.has_adapters else 0
    return Profile(
        attention=attention,
        needed_products=_per_position(needed.products),
        executed_products=_per_position(executed.products),
        needed_attention=tuple(needed.attention_calls.items()),
        executed_attention=tuple(executed.attention_calls.items()),
        parameters=parameters + adapters,
        trainable_parameters=needed.trainable_parameters,
        uncounted=executed.uncounted,
        positions=positions(config),
        sizes=sizes,
    )


def _of_all_blocks(model: Any, two: Trace, repeated: Repetition | None) -> Trace:
    """The trace of the whole model, from `two`, that of `model`, which of repeated blocks holds two repetitions."""
    if repeated is None:
        return two
    with shortened(repeated, 1):
        one = trace(model, **TRACED)
    times = repeated.times
    return Trace(
        products=extrapolated_each(one.products, two.products, times),
        attention_calls=extrapolated_each(one.attention_calls, two.attention_calls, times),
        uncounted=extrapolated_each(one.uncounted, two.uncounted, times),
        trainable_parameters=extrapolated(one.trainable_parameters, two.trainable_parameters, times),
    )


def _per_position(products: Mapping[Place, int]) -> dict[str, int]:
    traced = TRACED["batch_size"] * TRACED["sequence_length"]
    return {"/".join(place): flops // traced for place, flops in products.items()}


def _check_proportional(one: Trace, other: Trace, model_type: str) -> None:
    """Products that grow faster or slower than the positions, such as those of a model that attends in its own way."""
    few, many = (shape["batch_size"] * shape["sequence_length"] for shape in (TRACED, TRACED_AGAIN))
    proportional = one.product_flops * many == other.product_flops * few
    calls = (one.attention_calls, one.uncounted_operators), (other.attention_calls, other.uncounted_operators)
    if not proportional or calls[0] != calls[1]:
        raise ValueError(
            f"model.architecture.model_type={model_type} can't be counted: its products aren't proportional to the "
            "positions of a micro-batch, so it doesn't attend through transformers' attention functions alone"
        )


def _check(mode: Mode, recomputation: str, attention: str) -> None:
    for setting, value, choices in (
        ("mode", mode.name, MODES),
        ("gradient_checkpointing", recomputation, RECOMPUTATIONS),
        ("attention", attention, ATTENTIONS),
    ):
        if value not in choices:
            raise ValueError(f"{setting}={value} can't be counted; choose one of {', '.join(choices)}")
    if mode.has_adapters and (mode.rank or 0) < 1:
        raise ValueError(f"mode.rank={mode.rank} must be at least 1")
