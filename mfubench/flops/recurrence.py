"""Recurrences: the products with a layer's state, counted by formula.

Libraries compute a recurrence in chunks of a size of their own, which the count must not depend on. So the state is
counted as attention is: 2 FLOPs per element, position and product, forward, and twice that backward. The products: the
state is written and read (Mamba, arXiv 2312.00752; Mamba-2, arXiv 2405.21060; lightning attention, arXiv 2501.08313); a
delta rule also asks it for the key's value before it writes (Gated DeltaNet, arXiv 2412.06464; KDA, arXiv 2510.26692).
A state that is a vector, as RWKV-4's and Griffin's, is elementwise work: 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

RECURRENCE = "recurrence"  # the module group
STATE = "state"  # stands for every kernel of a recurrence
# The parts of a layer that the state's gradient doesn't depend on.
AFTER_STATE = ("out_proj", "o_proj", "norm", "o_norm", "g_proj", "g_a_proj", "g_b_proj", "in_proj_z", "output_gate")
MARKS = ("A_log", "dt_bias", "forget_gate", "slope_rate", "mlstm_backend")  # a layer with one of these keeps a state
# The attributes that tell a recurrence; FLOPs per element of its state, forward; the attributes whose product it is.
RECURRENCES = (
    (("A_log", "D"), 4, ("intermediate_size", "ssm_state_size")),  # Mamba-1, Mamba-2
    (("A_log", "dt_bias"), 6, ("num_v_heads", "head_k_dim", "head_v_dim")),  # Gated DeltaNet
    (("forget_gate", "b_proj"), 6, ("num_heads", "head_dim", "head_dim")),  # KDA
    (("A_log", "qkv_dim"), 0, ()),  # KDA's forget gate, whose state is its layer's
    (("slope_rate", "output_gate"), 4, ("num_attention_heads", "head_dim", "head_dim")),  # lightning attention
)
Place = tuple[str, str, str]


def keeps_state(module: Any) -> bool:
    """True for a layer with a recurrence."""
    return any(hasattr(module, mark) for mark in MARKS)


def state_flops(module: Any) -> int:
    """FLOPs of the state's products per position, forward. Raises ValueError for a recurrence that isn't known."""
    for marks, flops, sizes in RECURRENCES:
        if all(hasattr(module, name) for name in (*marks, *sizes)):
            return flops * math.prod(getattr(module, size) for size in sizes)
    raise ValueError(
        f"model.architecture: the recurrence of {type(module).__name__} can't be counted: no formula is known for it"
    )


def check_recurrences(model: Any) -> None:
    """Raise ValueError if the model has a recurrence without a formula."""
    for module in model.modules():
        if keeps_state(module):
            state_flops(module)


@contextmanager
def counted_states(
    model: Any, positions: int, products: Counter[Place], place: Callable[[str], Place]
) -> Iterator[None]:
    """Add the products of every pass over a recurrence to `products` while `model` runs on so many `positions`."""

    def passed(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        flops = positions * state_flops(module)
        matrices = _own_matrices(module)
        weights = 2 * positions * sum(matrix.numel() for matrix in matrices)
        products[place(STATE)[0], STATE, RECURRENCE] += flops + weights
        result = out[0] if isinstance(out, tuple) else out
        given = any(getattr(value, "requires_grad", False) for value in (*args, *kwargs.values()))
        if not result.requires_grad or not (given or _trains_before_state(module)):
            return
        trained = 2 * positions * sum(matrix.numel() for matrix in matrices if matrix.requires_grad)
        backward = 2 * flops + weights + trained
        result.register_hook(lambda _: products.update({("backward", STATE, RECURRENCE): backward}))

    hooks = [
        module.register_forward_hook(passed, with_kwargs=True) for module in model.modules() if keeps_state(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _own_matrices(module: Any) -> list[Any]:
    """The weights that Mamba-1 multiplies without calling a layer for it."""
    steps = [module.dt_proj.weight] if hasattr(module, "dt_proj") else []
    return steps + [own for name, own in module.named_parameters(recurse=False) if name.endswith("_weight")]


def _trains_before_state(module: Any) -> bool:
    named = module.named_parameters()
    return any(parameter.requires_grad for name, parameter in named if not name.startswith(AFTER_STATE))
