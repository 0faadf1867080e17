"""One forward and backward pass on the meta device. In: a twin and a shape. Out: a Trace of every product in it.

A micro-batch on the meta device runs the model's own Python code and autograd, so that what is recomputed and which
gradients are needed is found, not assumed; nothing is computed, and no memory is used.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mfubench.flops.attention import AttentionCall, recording_attention
from mfubench.flops.breakdown import Place, places

RECORDING = "mfubench_recording"  # a name with "flash" in it would make transformers look for a kernel on the hub
HARMLESS = frozenset(  # move or normalise several tensors, multiply no matrices
    {
        "aten::cat",
        "aten::copy_",
        "aten::stack",
        "aten::index_put",
        "aten::index_put_",
        "aten::scatter",
        "aten::scatter_add",
        "aten::_softmax_backward_data",
        "aten::_log_softmax_backward_data",
        "aten::native_layer_norm",
        "aten::native_layer_norm_backward",
        "aten::_fused_rms_norm",
        "aten::_fused_rms_norm_backward",
    }
)


@dataclass(frozen=True)
class Trace:
    """What one micro-batch does: FLOPs of plain products by place, attention calls and operators without a formula by count."""

    products: Mapping[Place, int]
    attention_calls: Mapping[AttentionCall, int]
    uncounted: Mapping[str, int]
    trainable_parameters: int

    @property
    def product_flops(self) -> int:
        """FLOPs of all plain products."""
        return sum(self.products.values())


def trace(model: Any, *, batch_size: int, sequence_length: int) -> Trace:
    """Trace forward, loss and backward of [batch_size, sequence_length] positions, every label valid.

    Raises ValueError for attention that can't be counted, and for a model that can't be run.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    products: Counter[Place] = Counter()
    attention_calls: Counter[AttentionCall] = Counter()
    uncounted: Counter[str] = Counter()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                operator = func._schema.name.removeprefix("aten::")
                products[place(operator)] += formula(*args, **(kwargs or {}), out_val=out)
            elif may_multiply_matrices(func, args, kwargs or {}):
                uncounted[func._schema.name] += 1
            return out

    def record(call: AttentionCall) -> None:
        attention_calls[call] += 1

    model.zero_grad(set_to_none=True)
    input_ids = torch.empty(batch_size, sequence_length, dtype=torch.long, device="meta")
    # A mask of four dimensions is taken as it is; making one would look at values, which the meta device lacks.
    mask = torch.empty(1, 1, sequence_length, sequence_length, device="meta")
    # Given for every sequence: transformers up to 5.17 multiplies them by frequencies, for one sequence unless it has them.
    positions = torch.arange(sequence_length, device="meta").expand(batch_size, -1)
    given = {"input_ids": input_ids, "labels": input_ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(_without_adapter(model).forward).parameters:
        given["position_ids"] = positions
    attention = recording_attention(record, batch_size, sequence_length)
    with _attention_of(model, attention), places(model) as place, Recorder():
        try:
            model(**given, use_cache=False).loss.backward()
        except (IndexError, RuntimeError) as error:  # sizes that don't fit each other show here at last
            raise ValueError(f"model.architecture: a model of it can't be run: {error}") from error
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return Trace(dict(products), dict(attention_calls), dict(uncounted), trainable)


def _without_adapter(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def may_multiply_matrices(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator without a FLOP formula could hide a product: the rule that decides what is listed.

    A product needs two factors, one of them a matrix, of numbers: floating point or 8 bits (integers of more bits are
    indices, booleans are masks). PyTorch's own operators qualify with two such tensors, unless they are views, tagged
    as pointwise, or among the few in HARMLESS. Operators from elsewhere (custom kernels) qualify with one matrix, since
    a factor may hide in a packed argument.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    from_pytorch = func.namespace in ("aten", "prims", "prim")
    if from_pytorch and (func.is_view or torch.Tag.pointwise in func.tags or func._schema.name in HARMLESS):
        return False
    packed = (torch.uint8, torch.int8)
    dimensions = [
        leaf.dim()
        for leaf in tree_leaves((args, kwargs))
        if isinstance(leaf, torch.Tensor) and leaf.dim() and (leaf.is_floating_point() or leaf.dtype in packed)
    ]
    return max(dimensions, default=0) >= 2 and len(dimensions) >= (2 if from_pytorch else 1)


@contextmanager
def _attention_of(model: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Make `function` the model's attention function; its own is back afterwards."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[RECORDING] = function
    model.config._attn_implementation = RECORDING
    try:
        yield
    finally:
        model.config._attn_implementation = own
        del ALL_ATTENTION_FUNCTIONS[RECORDING]
