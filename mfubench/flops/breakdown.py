"""Break FLOPs down by phase, operator and module group.

Finds the place of an operator in a running trace, and sums a Profile's hardware FLOPs for a shape by place. Modules are
known by their names in transformers; products of other modules are in the group `other`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mfubench.flops.attention import kernel_flops
from mfubench.flops.profile import LM_HEAD_GROUPS, Profile, product_flops
from mfubench.flops.recurrence import RECURRENCE, keeps_state

OperatorPlace = tuple[str, str, str]  # phase, operator, module group
FORWARD_PHASE, BACKWARD_PHASE, RECOMPUTATION_PHASE = PHASES = ("forward", "backward", "recomputation")
ATTENTION = "attention"  # stands for every attention kernel
SCORES = "attention scores"
LM_HEAD, LORA_OF_HEAD = LM_HEAD_GROUPS
LORA = "LoRA"
OTHER_MODULES = "other"
EXPERTS = "experts"
SURPLUS = "experts not chosen"  # of a model whose code passes every token through all experts
MODULE_GROUP_PATTERNS = (  # tried on the parts of a module's dotted name, last part first; the first match decides
    ("router", r"gate|router|shared_expert_gate"),
    (EXPERTS, r"experts|shared_experts?"),
    ("attention projections", r"(\w+_)?(attn|attention)"),
    ("MLP", r"(\w+_)?(mlp|ffn|feed_forward)"),
    ("embedding", r"embed_tokens|embed_in|wte|wpe"),
    (LM_HEAD, r"lm_head|embed_out"),
)
MODULE_GROUPS = (
    *("embedding", "attention projections", SCORES, "MLP", EXPERTS, SURPLUS, "router", RECURRENCE),
    *(LM_HEAD, LORA, OTHER_MODULES),
)


def group_of(name: str) -> str:
    """The group of the module with that dotted name: layers.0.self_attn.q_proj is one of the attention projections.

    LoRA's matrices belong to the layer that they adapt; those of lm_head have a group of their own, as fewer positions may
    pass them.
    """
    parts = name.split(".")
    group = next(
        (g for part in reversed(parts) for g, pattern in MODULE_GROUP_PATTERNS if re.fullmatch(pattern, part)),
        OTHER_MODULES,
    )
    if any(part.startswith("lora_") for part in parts):
        return LORA_OF_HEAD if group == LM_HEAD else LORA
    return group


@contextmanager
def operator_places(model: Any) -> Iterator[tuple[Callable[[str], OperatorPlace], Callable[[], str]]]:
    """Yield two functions for a dispatch mode: the place of the current operator, and its module's class, while `model` runs.

    An operator inside a module's forward belongs to that module, and to the recomputation if the backward pass has begun.
    One outside is of the backward pass and belongs to the place of the operator that made its autograd node; nodes are
    numbered in the order in which they are made, each just before its operator runs.
    """
    import torch
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    groups = {
        id(module): RECURRENCE if keeps_state(module) else group_of(name) for name, module in model.named_modules()
    }
    running: list[str] = []
    classes: list[str] = []
    made: dict[int, str] = {}

    def enter(module: Any, _: Any) -> None:
        running.append(groups.get(id(module), OTHER_MODULES))
        classes.append(type(module).__name__)

    def leave(*_: Any) -> None:
        running.pop()
        classes.pop()

    def place(operator: str) -> OperatorPlace:
        node = torch._C._current_autograd_node()
        if not running:
            group = OTHER_MODULES if node is None else made.get(node._sequence_nr(), OTHER_MODULES)
            return BACKWARD_PHASE, operator, group
        # An operator that makes no node finds the number of an earlier one, whose place is known already.
        made.setdefault(torch._C._autograd._get_sequence_nr() - 1, running[-1])
        return FORWARD_PHASE if node is None else RECOMPUTATION_PHASE, operator, running[-1]

    entered = register_module_forward_pre_hook(enter)
    # A recomputation ends by an exception, in the middle of a block, once it has all it needs.
    left = register_module_forward_hook(leave, always_call=True)
    try:
        yield place, lambda: classes[-1]
    finally:
        entered.remove()
        left.remove()


def hardware_flops(
    profile: Profile,
    batch_size: int,
    sequence_length: int,
    *,
    documents: Sequence[int] | None = None,
    trained_tokens: int | None = None,
    skip_masked: bool = False,
) -> dict[OperatorPlace, int]:
    """Hardware FLOPs of a micro-batch by place; their sum is exactly that of `profile.of` the same shape.

    With `skip_masked` that is hardware_flops_causal, else hardware_flops.
    """
    lengths = (sequence_length,) if documents is None else documents
    by_place: Counter[OperatorPlace] = Counter()
    for key, flops in product_flops(profile.executed_products, batch_size * sequence_length, trained_tokens).items():
        phase, operator, group = key.split("/")
        by_place[phase, operator, group] += flops
    needed = dict(profile.needed_attention)
    for call, times in profile.executed_attention:
        each = kernel_flops(call, batch_size, lengths, kernel=profile.attention, skip_masked=skip_masked)
        if call.gradients:
            by_place[BACKWARD_PHASE, ATTENTION, SCORES] += times * each
        else:  # the forward pass is the same with recomputation and without
            by_place[FORWARD_PHASE, ATTENTION, SCORES] += needed[call] * each
            by_place[RECOMPUTATION_PHASE, ATTENTION, SCORES] += (times - needed[call]) * each
    return dict(by_place)


def by_phase(by_place: Mapping[OperatorPlace, int]) -> dict[str, int]:
    """FLOPs of every phase, including phases with none."""
    return {phase: sum(n for place, n in by_place.items() if place[0] == phase) for phase in PHASES}


def by_operator(by_place: Mapping[OperatorPlace, int]) -> dict[str, int]:
    """FLOPs of every operator, by PyTorch's name for it, the largest first."""
    return dict(_summed(by_place, 1).most_common())


def by_module(by_place: Mapping[OperatorPlace, int]) -> dict[str, int]:
    """FLOPs of every module group that has some, and of the embedding, whose look-up costs none."""
    flops = _summed(by_place, 2)
    flops[LORA] += flops.pop(LORA_OF_HEAD, 0)
    return {group: flops[group] for group in MODULE_GROUPS if flops[group] or group == "embedding"}


def _summed(by_place: Mapping[OperatorPlace, int], part: int) -> Counter[str]:
    flops: Counter[str] = Counter()
    for place, n in by_place.items():
        flops[place[part]] += n
    return flops
