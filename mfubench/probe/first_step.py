"""Gather facts about the root module's first optimizer step, for `describe`.

Observed closely only once, since this costs more per module call than a timed step should carry.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle

# This package's optimizers take each parameter's gradient away before they start.
TAKES_GRADIENTS = "deepspeed"
# Counted calls: all, the causal ones, those with a mask.
ATTENTION_CALLS = ("sdpa_calls", "sdpa_causal_calls", "sdpa_masked_calls")


class FirstStep:
    """Facts gathered from the first training forward of `root` to the end of its first optimizer step."""

    def __init__(self, root: nn.Module) -> None:
        self.in_training_forward = False
        self.inner_calls: dict[type[nn.Module], int] = {}  # module calls inside others, by class
        self.recomputed_calls: dict[type[nn.Module], int] = {}  # in the backward passes, outside any other, by class
        self.autocast: str | None = None
        # Weight elements by their products' dtype. No Counter: torch.compile would compile its __missing__.
        self.linear_dtypes: dict[str, int] = {}
        self.attention_calls: dict[str, int] | None = None  # by ATTENTION_CALLS; None: compiled, so calls can't be seen
        self.with_gradient: set[int] = set()  # ids of trainable parameters
        self.hears_gradients = False  # True: also observes gradients as they arrive, not only when an optimizer starts
        self.optimizers: dict[int, OptimizerFacts] = {}
        self.recomputed: set[nn.Module] = set()
        self.recomputed_reentrant: set[nn.Module] = set()
        self._forward_without_gradients: set[nn.Module] = set()
        self._modules = set(root.modules())
        self._device_type = next((parameter.device.type for parameter in root.parameters()), "cpu")
        self._trainable = [parameter for parameter in root.parameters() if parameter.requires_grad]
        self._attention = F.scaled_dot_product_attention
        self._counter: Any = None
        self._hooks: list[RemovableHandle] = []
        if any(is_compiled(module) for module in self._modules):
            return
        self._count_attention_calls()
        if any(type(module).__module__.startswith(TAKES_GRADIENTS) for module in self._modules):
            self._hear_gradients()

    def inner_call(self, module: nn.Module) -> None:
        """Note a module call inside another one."""
        self.inner_calls[type(module)] = self.inner_calls.get(type(module), 0) + 1
        if not self.in_training_forward:
            return
        if not torch.is_grad_enabled():
            # Reentrant checkpointing runs a block without gradients first; non-reentrant keeps them enabled.
            self._forward_without_gradients.add(module)
        if self.autocast is None and torch.is_autocast_enabled(self._device_type):
            self.autocast = str(torch.get_autocast_dtype(self._device_type)).replace("torch.", "")
        if isinstance(module, nn.Linear):
            weight_dtype, elements = size(module.weight)
            if four_bit_state(module.weight) is not None:  # unpacked to its layer's compute dtype
                weight_dtype = str(getattr(module, "compute_dtype", None) or weight_dtype).replace("torch.", "")
            cast = torch.is_autocast_enabled(self._device_type)
            dtype = self.autocast if cast and self.autocast else weight_dtype
            self.linear_dtypes[dtype] = self.linear_dtypes.get(dtype, 0) + elements

    def recomputed_call(self, module: nn.Module) -> None:
        """Note a module call during the backward pass, outside any other."""
        self.recomputed_calls[type(module)] = self.recomputed_calls.get(type(module), 0) + 1
        if module in self._modules:
            self.recomputed.add(module)
            if module in self._forward_without_gradients:
                self.recomputed_reentrant.add(module)

    def optimizer_starts(self, optimizer: Optimizer) -> None:
        """Note the gradients now: afterwards they may have been zeroed."""
        self._note_gradients()
        self.optimizers.setdefault(id(optimizer), OptimizerFacts(optimizer))

    def optimizer_ended(self, optimizer: Optimizer) -> None:
        """Note the states, which exist now. An optimizer stepped one group at a time shows another group in each event."""
        self.optimizers.setdefault(id(optimizer), OptimizerFacts(optimizer)).update(optimizer)
        self._note_gradients()  # those of a closure, computed inside the step
        self.stop()

    def stop(self) -> None:
        """Remove the hooks, and the attention counter unless someone has replaced it since."""
        while self._hooks:
            self._hooks.pop().remove()
        if F.scaled_dot_product_attention is self._counter:
            F.scaled_dot_product_attention = self._attention

    def _note_gradients(self) -> None:
        if len(self.with_gradient) < len(self._trainable):
            self.with_gradient.update(id(p) for p in self._trainable if p.grad is not None)

    def _hear_gradients(self) -> None:
        """Note, until `stop`, each trainable parameter at which a gradient arrives."""
        self.hears_gradients = True

        def arrived(parameter_id: int, gradient: torch.Tensor | None) -> None:
            if gradient is not None:
                self.with_gradient.add(parameter_id)

        for parameter in self._trainable:
            self._hooks.append(parameter.register_hook(partial(arrived, id(parameter))))

    def _count_attention_calls(self) -> None:
        """Count, until `stop`, the calls inside training forwards."""
        calls = self.attention_calls = dict.fromkeys(ATTENTION_CALLS, 0)
        original = self._attention

        def counting(*args: Any, **kwargs: Any) -> Any:
            if self.in_training_forward:
                named = {**dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args)), **kwargs}
                calls["sdpa_calls"] += 1
                calls["sdpa_causal_calls"] += bool(named.get("is_causal"))
                calls["sdpa_masked_calls"] += named.get("attn_mask") is not None
            return original(*args, **kwargs)

        self._counter = F.scaled_dot_product_attention = counting


class OptimizerFacts:
    """An optimizer's class, the parameters it steps and its states: (dtype, number of elements) by id."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.name = type(optimizer).__name__
        self.fused = optimizer.defaults.get("fused")
        self.stepped: dict[int, tuple[str, int]] = {}
        self.state: dict[tuple[int, str], tuple[str, int]] = {}

    def update(self, optimizer: Optimizer) -> None:
        """Add the optimizer's present parameter groups."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    continue
                self.stepped[id(parameter)] = size(parameter)
                for name, value in optimizer.state.get(parameter, {}).items():
                    if isinstance(value, torch.Tensor) and value.dim() > 0:  # a step count is negligible
                        self.state[(id(parameter), name)] = size(value)


def size(tensor: torch.Tensor) -> tuple[str, int]:
    """(dtype, number of elements): of the whole tensor if it is sharded, of the weights if they are packed into bytes."""
    packed = four_bit_state(tensor)
    if packed is not None:
        return str(packed.quant_type), math.prod(packed.shape)
    elements = getattr(tensor, "ds_numel", None)  # of a parameter that ZeRO 3 keeps empty until it is needed
    return str(tensor.dtype).replace("torch.", ""), tensor.numel() if elements is None else elements


def four_bit_state(tensor: torch.Tensor) -> Any:
    """The quantization state of a weight that bitsandbytes holds in 4 bits, two in a byte; None for any other weight."""
    return getattr(tensor, "quant_state", None)


def is_compiled(module: nn.Module) -> bool:
    """True if a call of this very module goes through torch.compile, in either of its two styles."""
    return type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
