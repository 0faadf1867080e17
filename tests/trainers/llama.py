"""Trains a tiny Llama of transformers for a few steps: full or LoRA, with or without gradient checkpointing, and so on."""

from __future__ import annotations

import argparse
from functools import partial

import torch
from peft import LoraConfig, get_peft_model
from rank import leave
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class BypassedHead(nn.Module):
    """Uses its LoRA layer's frozen weight alone, as fused linear cross-entropy kernels do."""

    def __init__(self, adapted: nn.Module) -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.adapted.base_layer.weight)


def build(
    *,
    attention: str = "sdpa",
    checkpointing: str = "none",
    lora: bool = False,
    four_bit: bool = False,
    bypassed_head: bool = False,
    width: int = 32,
) -> nn.Module:
    """The model, ready to train."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=width * 3 // 2,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    if four_bit:
        from packed import pack

        pack(model, double=True)
    if checkpointing != "none":
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
    if not lora:
        return model.train()
    targets = [*PROJECTIONS, "lm_head"] if bypassed_head else PROJECTIONS
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    adapted.enable_input_require_grads()
    if bypassed_head:
        model.lm_head = BypassedHead(model.lm_head)
    return adapted.train()


def step_alone(optimizer: torch.optim.Optimizer, _: torch.Tensor) -> None:
    """What a tensor's own optimizer does when its gradient is there."""
    optimizer.step()
    optimizer.zero_grad()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpointing", choices=["none", "reentrant", "non_reentrant"], default="none")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--four-bit", action="store_true", help="hold the blocks' linear layers in 4 bits")
    parser.add_argument("--bypassed-head", action="store_true", help="LoRA on the head, which never gets a gradient")
    parser.add_argument("--width", type=int, default=32, help="of the hidden states")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches in a step")
    parser.add_argument("--autocast", action="store_true", help="multiply in bfloat16")
    parser.add_argument(
        "--compiled", action="store_true", help="by torch.compile, whose eager backend runs what it captured"
    )
    parser.add_argument("--ddp", action="store_true", help="on the ranks that torchrun starts")
    parser.add_argument("--evaluation", action="store_true", help="within every step")
    parser.add_argument("--multiplying-optimizer", action="store_true", help="Muon, for what has rows and columns")
    parser.add_argument(
        "--step-in-backward", action="store_true", help="an optimizer for each tensor, as its gradient comes"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(
        attention=given.attention,
        checkpointing=given.checkpointing,
        lora=given.lora,
        four_bit=given.four_bit,
        bypassed_head=given.bypassed_head,
        width=given.width,
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    if given.compiled:
        model.compile(backend="eager")
    if given.ddp:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    if given.step_in_backward:
        for each in trained:
            each.register_post_accumulate_grad_hook(partial(step_alone, torch.optim.AdamW([each])))
        optimizers = []
    elif given.multiplying_optimizer:
        optimizers = [torch.optim.Muon([p for p in trained if p.dim() == 2])]
    else:
        optimizers = [torch.optim.AdamW(trained, fused=True)]
    ids = torch.randint(64, (2, 16))
    for _ in range(given.steps):
        for _ in range(given.accumulation):
            with torch.autocast("cpu", torch.bfloat16, enabled=given.autocast):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
        if given.evaluation:
            with torch.no_grad():
                model(input_ids=ids)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    if given.ddp:
        leave()
