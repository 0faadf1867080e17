"""A user's own script over a library that trains: transformers' Trainer, accelerate, DeepSpeed. Prints each step's seconds."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import torch
from own_loop import VOCABULARY, llama
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    """Random token ids of 32 positions."""

    def __init__(self, number: int) -> None:
        self.ids = torch.randint(0, VOCABULARY, (number, 32), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def by_trainer(given: Any) -> None:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Stopwatch(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            if self.began:
                print(f"a step took {now - self.began:.6f} s", flush=True)
            self.began = now

    arguments = TrainingArguments(
        output_dir=given.output,
        max_steps=given.steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=given.accumulate,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    samples = Samples(2 * given.accumulate * given.steps * int(os.environ.get("WORLD_SIZE", 1)))
    Trainer(model=llama(), args=arguments, train_dataset=samples, callbacks=[Stopwatch()]).train()


def by_accelerate(given: Any) -> None:
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True, gradient_accumulation_steps=given.accumulate), llama()
    samples = Samples(2 * given.accumulate * given.steps * accelerator.num_processes)
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.AdamW(model.parameters(), lr=1e-3), DataLoader(samples, batch_size=2)
    )
    began = time.perf_counter()
    for number, batch in enumerate(loader):
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        if number % given.accumulate == given.accumulate - 1:
            print(f"a step took {time.perf_counter() - began:.6f} s", flush=True)
            began = time.perf_counter()


def by_deepspeed(given: Any) -> None:
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": given.accumulate,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "zero_optimization": {"stage": 2},
    }
    deepspeed.init_distributed("gloo")
    samples = Samples(2 * given.accumulate * given.steps * int(os.environ["WORLD_SIZE"]))
    engine, _, loader, _ = deepspeed.initialize(model=llama(), config=config, training_data=samples)
    began = time.perf_counter()
    for batch in loader:
        engine.backward(engine(**{name: ids.to(engine.device) for name, ids in batch.items()}).loss)
        engine.step()
        if engine.is_gradient_accumulation_boundary():
            print(f"a step took {time.perf_counter() - began:.6f} s", flush=True)
            began = time.perf_counter()


def by_lightning(given: Any) -> None:
    import lightning_module

    lightning_module.fit(DataLoader(Samples(2 * given.accumulate * given.steps), batch_size=2), given)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=("trainer", "accelerate", "deepspeed", "lightning"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--output", default="trained")
    given = parser.parse_args()
    torch.manual_seed(0)
    libraries = (by_trainer, by_accelerate, by_deepspeed, by_lightning)
    next(train for train in libraries if train.__name__ == f"by_{given.library}")(given)
