"""The training loop, run by each rank.

Nothing in a step waits for the device, and nothing is evaluated, logged or saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DataLoaderConfiguration, DeepSpeedPlugin, set_seed
from data import Conversation, collator, read_samples
from deepspeed_file import CLIPPING
from model import load, position_limit, read_config
from schema import Settings
from torch.utils.data import DataLoader
from transformers import get_scheduler


def train(settings: Settings, conversations: Sequence[Conversation], *, random_weights: bool, seed: int) -> None:
    """Train for as many epochs as the settings say. Raises FileError if the model and the settings don't fit."""
    config = read_config(settings)
    on_gpu = torch.cuda.is_available()
    bf16 = _bf16(settings, on_gpu)
    if not bf16:
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, without effect on a CPU
    # Before the model: Accelerate starts the ranks' communication, and ZeRO stage 3 shards models while they are made.
    accelerator = _accelerator(settings, bf16, on_gpu)
    set_seed(seed)
    samples, length, tokenizer = read_samples(settings, conversations, position_limit(config))
    loader: DataLoader = DataLoader(
        samples,  # type: ignore[arg-type]  # a list is a dataset
        batch_size=settings.batch_size,
        collate_fn=collator(tokenizer, settings.padding, length),
        pin_memory=on_gpu,
    )
    model = load(
        settings,
        random_weights=random_weights,
        bf16=bf16,
        autocast=bf16 and settings.deepspeed is None,
        device=accelerator.device,
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    # The scheduler keeps the bare optimizer: Accelerate would step a prepared one once for every rank.
    model, prepared, loader = accelerator.prepare(model, optimizer, loader)
    epochs = settings.num_epochs or ceil(settings.min_update_steps / _steps_per_epoch(settings, loader))
    steps = epochs * _steps_per_epoch(settings, loader)
    scheduler = get_scheduler(settings.lr_scheduler_type, optimizer, settings.num_warmup_steps, steps)
    accelerator.print(
        f"finetune: {settings.model_id}, {len(samples)} samples of up to {length} tokens, {steps} steps on "
        f"{accelerator.num_processes} device(s), {'bf16' if bf16 else 'fp32'}, {sum(map(_numel, trained)):,} trained"
    )
    loss = _loop(accelerator, model, prepared, scheduler, loader, epochs)
    accelerator.print(f"finetune: done, final loss {loss.item():.4f}")
    # A rank that exits with its process group open may abort, and so may one whose peers are still talking to it.
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _loop(
    accelerator: Accelerator, model: Any, optimizer: Any, scheduler: Any, loader: Any, epochs: int
) -> torch.Tensor:
    """Train all epochs; returns the last micro-batch's loss. An epoch's last, incomplete accumulation makes a step too."""
    clips_itself = accelerator.state.deepspeed_plugin is not None
    loss = torch.zeros(())
    model.train()
    for _ in range(epochs):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients and not clips_itself:
                    accelerator.clip_grad_norm_(model.parameters(), CLIPPING)
                optimizer.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
    return loss.detach()


def _bf16(settings: Settings, on_gpu: bool) -> bool:
    """True for bf16: as the DeepSpeed file says; without one, or if it says auto, on a GPU."""
    said = None if settings.deepspeed is None else settings.deepspeed.bf16
    return on_gpu if said is None else said


def _accelerator(settings: Settings, bf16: bool, on_gpu: bool) -> Accelerator:
    deepspeed = settings.deepspeed
    if not on_gpu:
        # Accelerate does this itself on GPUs. Without it DeepSpeed's ranks count as one: all read the same samples.
        PartialState(cpu=True)
        if deepspeed is not None:
            from deepspeed import init_distributed

            init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    return Accelerator(
        # With `cpu`, Accelerate would silently take DeepSpeed's ranks for plain ones.
        cpu=not on_gpu and deepspeed is None,
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        deepspeed_plugin=None if deepspeed is None else DeepSpeedPlugin(hf_ds_config=dict(deepspeed.content)),
        dataloader_config=DataLoaderConfiguration(non_blocking=on_gpu),
    )


def _steps_per_epoch(settings: Settings, loader: Any) -> int:
    """Optimizer steps in an epoch; the length of `loader` is in micro-batches of this rank."""
    return ceil(len(loader) / settings.gradient_accumulation_steps)


def _numel(parameter: torch.Tensor) -> int:
    """Elements of the whole parameter, also if ZeRO stage 3 leaves this rank none."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
