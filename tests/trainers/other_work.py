"""A trainer that reads a plan's native config and does the work asked for, but for one thing.

python other_work.py CONFIG.yaml VARIANT
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def made(config: dict[str, Any], variant: str) -> torch.nn.Module:
    """The model, set up for training."""
    architecture = AutoConfig.from_pretrained(config["model_name_or_path"])
    if variant == "more vocabulary":
        architecture.vocab_size *= 2
    if variant == "eager under another name":
        from transformers.models.llama.modeling_llama import eager_attention_forward

        ALL_ATTENTION_FUNCTIONS["sdpa"] = eager_attention_forward
    model = AutoModelForCausalLM.from_config(architecture, attn_implementation="sdpa")
    if "lora_r" in config:
        targets = config["lora_target_modules"]
        model = get_peft_model(model, LoraConfig(r=config["lora_r"], target_modules=targets, task_type="CAUSAL_LM"))
    model.train()
    if variant == "compiled":
        model.compile(backend="eager")
    if config["gradient_checkpointing"]:
        model.gradient_checkpointing_enable(config["gradient_checkpointing_kwargs"])
        if variant == "one block recomputed":
            for block in list(model.model.layers)[1:]:
                block.gradient_checkpointing = False
    return model


def loss_of(model: torch.nn.Module, ids: torch.Tensor, variant: str) -> torch.Tensor:
    """The loss of a micro-batch."""
    if variant != "a quarter of the logits":
        return model(input_ids=ids, labels=ids).loss
    kept = ids.shape[1] // 4
    logits = model(input_ids=ids, logits_to_keep=kept).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -kept:].flatten())


@contextmanager
def precision(variant: str) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16 for fp32"):
        yield


def train(config: dict[str, Any], variant: str) -> None:
    """The usual loop."""
    torch.manual_seed(config["seed"])
    if variant == "one thread":
        torch.set_num_threads(1)
    model = made(config, variant)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained[:1] if variant == "one tensor stepped" else trained, fused=True)
    shape = (config["per_device_train_batch_size"], config["max_length"])
    for step in range(config["max_steps"]):
        if variant == "frozen later" and step == 3:
            for parameter in trained[:-1]:
                parameter.requires_grad_(False)
        ids = torch.randint(8192, shape if variant != "another shape now and then" or step % 4 else (shape[0], 8))
        with precision(variant):
            loss_of(model, ids, variant).backward()
        time.sleep(0.25 if variant == "a quarter second more" else 0)
        for _ in range(2 if variant == "two optimizer steps" else 1):
            optimizer.step()
        optimizer.zero_grad()
        if variant == "evaluation in between":
            with torch.no_grad():
                model(input_ids=ids[:, :16], labels=ids[:, :16])


if __name__ == "__main__":
    train(yaml.safe_load(Path(sys.argv[1]).read_text()), sys.argv[2])
