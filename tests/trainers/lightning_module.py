"""A small Llama as a LightningModule, whose optimizer is Lightning's own to call."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning
import torch
from own_loop import llama
from torch.utils.data import DataLoader


class Llama(pytorch_lightning.LightningModule):
    """The model, its loss and its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.llama, self.began = llama(), time.perf_counter()

    def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        return self.llama(**batch).loss

    def on_before_zero_grad(self, _: torch.optim.Optimizer) -> None:
        print(f"a step took {time.perf_counter() - self.began:.6f} s", flush=True)
        self.began = time.perf_counter()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def fit(loader: DataLoader, given: Any) -> None:
    pytorch_lightning.Trainer(
        accelerator="cpu",
        max_steps=given.steps,
        accumulate_grad_batches=given.accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    ).fit(Llama(), loader)
