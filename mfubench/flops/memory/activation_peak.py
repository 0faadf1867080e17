"""Find the peak of a step's allocations beyond the weights, in bytes, on the meta device.

A micro-batch on the meta device runs the model's own Python code and autograd, which allocate and free as on any device;
every storage has its size, and no memory behind it.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from functools import partial
from typing import Any

from mfubench.flops.memory.kernels import fused_attention, fused_loss, stand_ins


class LiveStorages:
    """Bytes of the storages alive now and at the peak. A storage counts once, however many views it has."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self._storages: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def track(self, tensor: Any, share: float = 1.0) -> None:
        """Count a tensor's storage, or that share of its bytes, until it is freed."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        before, reference = self._storages.get(address, (0, None))
        now = int(storage.nbytes() * share)
        self._storages[address] = (now, reference or weakref.ref(storage, lambda _: self._freed(address)))
        self.live += now - before
        self.peak = max(self.peak, self.live)

    def tracks(self, tensor: Any) -> bool:
        """True if the tensor's storage is counted."""
        return tensor.untyped_storage()._cdata in self._storages

    def _freed(self, address: int) -> None:
        self.live -= self._storages.pop(address)[0]


def storage_tracker(storages: LiveStorages) -> Any:
    """A context in which `storages` tracks the storage of every tensor returned by an operator."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Tracker(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and not storages.tracks(tensor):
                    storages.track(tensor)
            return out

    return Tracker()


def peak_of_step(
    model: Any,
    *,
    batch_size: int,
    sequence_length: int,
    autocast: bool,
    cuda: bool,
    fused_kernel: bool,
    fused_linear_cross_entropy: bool,
    gradient_share: float,
    gradients_stay: bool,
) -> int:
    """Peak bytes beyond the weights, gradients included, of forward and backward over [batch_size, sequence_length] positions.

    A gradient counts with `gradient_share` of its bytes as soon as it is complete; with `gradients_stay` all are there from
    the start, as from the second micro-batch of a step on. Raises ValueError for a model whose operators don't all run on
    the meta device.
    """
    import torch

    storages = LiveStorages()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.zero_grad(set_to_none=True)
    for tensor in (*model.parameters(), *model.buffers()):
        storages.track(tensor, share=0)
    if gradients_stay:
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
            storages.track(parameter.grad, gradient_share)
    input_ids = torch.empty(batch_size, sequence_length, dtype=torch.long, device="meta")
    storages.track(input_ids)
    # A 4-d mask is taken as it is: making one would read values, which the meta device lacks. A fused kernel needs none.
    mask = model.get_input_embeddings().weight.new_empty(batch_size, 1, sequence_length, sequence_length)
    storages.track(mask, share=0 if fused_kernel else 1)
    with ExitStack() as context:
        for parameter in trained:
            hook = parameter.register_post_accumulate_grad_hook(lambda p: storages.track(p.grad, gradient_share))
            context.callback(hook.remove)
        if fused_kernel:
            context.enter_context(fused_attention(model, autocast=autocast, cuda=cuda))
        kernels = context.enter_context(stand_ins(autocast=autocast, fused_dropout=cuda))
        context.enter_context(storage_tracker(storages))
        loss_of = fused_loss(model, autocast=autocast) if fused_linear_cross_entropy else partial(_model_loss, model)
        try:
            loss = loss_of(input_ids, mask)
            del mask
            kernels.cache.clear()
            kernels.caching = False
            _run_backward(loss)
        except RuntimeError as error:  # on the meta device, products of experts exist in bf16 only
            raise ValueError(f"the memory of a step can't be estimated: {str(error).splitlines()[0]}") from error
    model.zero_grad(set_to_none=True)
    return storages.peak


def _run_backward(loss: Any) -> None:
    """loss.backward() that keeps the stand-ins for recomputed blocks: the method itself would switch them off."""
    import torch

    autograd_engine: Any = torch.autograd.Variable._execution_engine
    gradients = (torch.ones_like(loss),)
    autograd_engine.run_backward((loss,), gradients, False, False, (), allow_unreachable=True, accumulate_grad=True)


def _model_loss(model: Any, input_ids: Any, mask: Any) -> Any:
    return model(input_ids=input_ids, attention_mask=mask, labels=input_ids, use_cache=False).loss
