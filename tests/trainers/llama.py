"""Trains a tiny Llama of transformers for three steps: full or LoRA, with or without gradient checkpointing."""

from __future__ import annotations

import argparse

import torch
from peft import LoraConfig, get_peft_model
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


def build(options: argparse.Namespace) -> nn.Module:
    """The model, ready to train."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=options.attention,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    if options.checkpointing != "none":
        model.gradient_checkpointing_enable({"use_reentrant": options.checkpointing == "reentrant"})
    if not options.lora:
        return model.train()
    targets = [*PROJECTIONS, "lm_head"] if options.bypassed_head else PROJECTIONS
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    adapted.enable_input_require_grads()
    if options.bypassed_head:
        model.lm_head = BypassedHead(model.lm_head)
    return adapted.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpointing", choices=["none", "reentrant", "non_reentrant"], default="none")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--bypassed-head", action="store_true", help="LoRA on the head, which never gets a gradient")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(given)
    optimizer = torch.optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), fused=True)
    ids = torch.randint(64, (2, 16))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
