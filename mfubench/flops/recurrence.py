"""Recurrences: the products with a layer's state, counted by formula.

Libraries compute a recurrence in chunks of a size of their own, which the count must not depend on. So the state is
counted as attention is: 2 FLOPs per element, position and product, forward, and twice that backward. The products: the
state is written and read (Mamba, arXiv 2312.00752; Mamba-2, arXiv 2405.21060); a delta rule also asks it for the key's
value before it writes (Gated DeltaNet, arXiv 2412.06464; KDA, arXiv 2510.26692).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STATE = "state"  # stands for every kernel of a recurrence
AFTER_STATE = ("out_proj", "o_proj", "norm")  # the parts of a layer that the state's gradient doesn't depend on
Place = tuple[str, str, str]


def keeps_state(module: Any) -> bool:
    """True for a layer with a recurrence: all of transformers have the logarithm of a decay as a parameter."""
    return hasattr(module, "A_log")


def state_flops(module: Any) -> int:
    """FLOPs of the state's products per position, forward. Raises ValueError if the state's sizes aren't known."""
    if hasattr(module, "ssm_state_size"):
        return 4 * module.intermediate_size * module.ssm_state_size
    if hasattr(module, "num_v_heads"):
        return 6 * module.num_v_heads * module.head_k_dim * module.head_v_dim
    raise ValueError(
        f"model.architecture: the recurrence of {type(module).__name__} can't be counted: its sizes are unknown"
    )


@contextmanager
def counted_states(
    model: Any, positions: int, products: Counter[Place], place: Callable[[str], Place]
) -> Iterator[None]:
    """Add the products of every pass over a recurrence to `products` while `model` runs on so many `positions`."""

    def passed(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        flops = positions * state_flops(module)
        steps = getattr(module, "dt_proj", None)  # Mamba-1 multiplies its weight without calling it
        weights = 0 if steps is None else 2 * positions * steps.weight.numel()
        phase, _, group = place(STATE)
        products[phase, STATE, group] += flops + weights
        result = out[0] if isinstance(out, tuple) else out
        given = any(getattr(value, "requires_grad", False) for value in (*args, *kwargs.values()))
        if not result.requires_grad or not (given or _trains_before_state(module)):
            return
        backward = 2 * flops + weights * (1 + (steps is not None and steps.weight.requires_grad))
        result.register_hook(lambda _: products.update({("backward", STATE, group): backward}))

    hooks = [
        module.register_forward_hook(passed, with_kwargs=True) for module in model.modules() if keeps_state(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _trains_before_state(module: Any) -> bool:
    named = module.named_parameters()
    return any(parameter.requires_grad for name, parameter in named if not name.startswith(AFTER_STATE))
