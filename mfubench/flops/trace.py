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
from mfubench.flops.breakdown import BACKWARD_PHASE, EXPERTS, SURPLUS, OperatorPlace, operator_places
from mfubench.flops.recurrence import RECURRENCE, counted_states
from mfubench.workload.architecture import setting_of

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
    by_class: Mapping[str, int]  # forward FLOPs of plain products by the class of their module

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

    Raises ValueError for attention that can't be counted.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from mfubench.probe.formulas import described, flops_of, may_multiply_matrices, name_of

    products: Counter[OperatorPlace] = Counter()
    attention_calls: Counter[AttentionCall] = Counter()
    uncounted: Counter[str] = Counter()
    by_class: Counter[str] = Counter()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            name = name_of(func).removeprefix("aten::")
            flops = flops_of(func, args, kwargs, out)
            if flops is None and not may_multiply_matrices(func, args, kwargs):
                return out
            where = place(name)
            if where[2] == RECURRENCE and not name.startswith("convolution"):
                return out  # its state is counted by formula: how it is multiplied depends on a chunk's size
            if flops is None:
                uncounted[described(func, args, kwargs)] += 1
                return out
            if where[2] == EXPERTS and _is_of_all_experts(args, positions, experts):
                products[*where[:2], SURPLUS] += flops - flops * chosen // experts
                flops = flops * chosen // experts
            products[where] += flops
            if where[0] != BACKWARD_PHASE:
                by_class[running_class()] += flops
            return out

    model.zero_grad(set_to_none=True)
    input_ids = torch.empty(batch_size, sequence_length, dtype=torch.long, device="meta")
    # A 4-d mask is taken as it is; making one would read values, which the meta device lacks.
    text = model.config.get_text_config()
    experts = setting_of(text, "num_local_experts") or setting_of(text, "num_experts")
    chosen = setting_of(text, "num_experts_per_tok")
    positions = batch_size * sequence_length
    mask = torch.empty(1, 1, sequence_length, sequence_length, dtype=model.dtype, device="meta")
    # Given for every sequence: transformers up to 5.17 multiplies them by frequencies, for one sequence unless it has them.
    position_ids = torch.arange(sequence_length, device="meta").expand(batch_size, -1)
    given = {"input_ids": input_ids, "labels": input_ids}
    if setting_of(text, "num_attention_heads", varying=True):  # a model of recurrences alone makes no mask
        given["attention_mask"] = mask
    if "position_ids" in inspect.signature(_without_adapter(model).forward).parameters:
        given["position_ids"] = position_ids
    attention = recording_attention(attention_calls, batch_size, sequence_length)
    with (
        attention_of(model, attention),
        operator_places(model) as (place, running_class),
        counted_states(model, positions, products, place),
        Recorder(),
    ):
        model(**given, use_cache=False).loss.backward()
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Trace(dict(products), dict(attention_calls), dict(uncounted), trainable, dict(by_class))


def _is_of_all_experts(args: Any, positions: int, experts: int | None) -> bool:
    """True for a batched product of every position with every expert, chosen by it or not, as Llama 4's code makes it."""
    shape: Any = getattr(args[0], "shape", ())
    return len(shape) == 3 and shape[0] == experts and positions in shape[1:]


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
