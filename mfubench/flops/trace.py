"""Trace one forward and backward pass of a meta model.

A micro-batch on the meta device runs the model's own Python code and autograd, so recomputation and the needed gradients
are observed, not assumed; nothing is computed, and no memory is used.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mfubench.flops.attention import AttentionCall, recording_attention
from mfubench.flops.breakdown import OperatorPlace, operator_places

ATTENTION_NAME = "mfubench"  # a name with "flash" in it would make transformers look for a kernel on the hub


@dataclass(frozen=True)
class Trace:
    """The work of one micro-batch: FLOPs of plain products by place; numbers of attention calls and of uncounted operators.

    Operators without a formula are named with the shapes that they had in this micro-batch.
    """

    products: Mapping[OperatorPlace, int]
    attention_calls: Mapping[AttentionCall, int]
    uncounted: Mapping[str, int]
    trainable_parameters: int

    @property
    def product_flops(self) -> int:
        """FLOPs of all plain products."""
        return sum(self.products.values())

    @property
    def uncounted_operators(self) -> Mapping[str, int]:
        """Calls of operators without a formula by name alone, for all shapes."""
        calls: Counter[str] = Counter()
        for described, times in self.uncounted.items():
            calls[described.partition(" ")[0]] += times
        return calls


def trace(model: Any, *, batch_size: int, sequence_length: int) -> Trace:
    """Trace forward, loss and backward of [batch_size, sequence_length] positions, every label valid.

    Raises ValueError for attention that can't be counted, and for a model that can't be run.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from mfubench.probe.formulas import described, flops_of, may_multiply_matrices, name_of

    products: Counter[OperatorPlace] = Counter()
    attention_calls: Counter[AttentionCall] = Counter()
    uncounted: Counter[str] = Counter()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            flops = flops_of(func, args, kwargs, out)
            if flops is not None:
                products[place(name_of(func).removeprefix("aten::"))] += flops
            elif may_multiply_matrices(func, args, kwargs):
                uncounted[described(func, args, kwargs)] += 1
            return out

    model.zero_grad(set_to_none=True)
    input_ids = torch.empty(batch_size, sequence_length, dtype=torch.long, device="meta")
    # A 4-d mask is taken as it is; making one would read values, which the meta device lacks.
    mask = torch.empty(1, 1, sequence_length, sequence_length, device="meta")
    # Given for every sequence: transformers up to 5.17 multiplies them by frequencies, for one sequence unless it has them.
    positions = torch.arange(sequence_length, device="meta").expand(batch_size, -1)
    given = {"input_ids": input_ids, "labels": input_ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(_without_adapter(model).forward).parameters:
        given["position_ids"] = positions
    attention = recording_attention(attention_calls, batch_size, sequence_length)
    with attention_of(model, attention), operator_places(model) as place, Recorder():
        try:
            model(**given, use_cache=False).loss.backward()
        except (IndexError, RuntimeError) as error:  # mismatched sizes show here at the latest
            raise ValueError(f"model.architecture: a model of it can't be run: {error}") from error
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Trace(dict(products), dict(attention_calls), dict(uncounted), trainable)


def _without_adapter(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def attention_of(model: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Make `function` the model's attention function; its own is restored afterwards."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    original = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[ATTENTION_NAME] = function
    model.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        model.config._attn_implementation = original
        del ALL_ATTENTION_FUNCTIONS[ATTENTION_NAME]
