"""A tiny trainer whose step takes a known time: every training forward sleeps to the end of its share of the step.

Plain PyTorch, knows nothing of mfubench. In: options. Out: the same records as any trainer, when the probe is there, and
with --stopwatch what its own clock says: per step when its first forward and its optimizer began, per load how long it was.
Each twice, just outside and just inside of the call, so that whoever else clocks it lies between.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path

import torch
from rank import leave
from torch import nn
from torch.utils.data import DataLoader, Dataset

VOCABULARY, PADDING, IGNORED = 32, 3, 5


class Sleeper(nn.Module):
    """Token ids in, logits out; a training forward returns when `seconds` have passed since the last one returned.

    Deadlines are kept, so that what else a step does is part of its time and a late step doesn't delay the next.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.head = nn.Linear(8, VOCABULARY)
        self.seconds = seconds
        self.deadline = 0.0  # of the next training forward; 0: there was none
        self.began = 0.0  # the last training forward

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.began = now = time.perf_counter()
            self.deadline = (self.deadline or now) + self.seconds
            time.sleep(max(self.deadline - now, 0))
        return self.head(self.embedding(input_ids))


class Wrapper(nn.Module):
    """Something around a model, as parallel training puts there."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.module(input_ids)


class SlowAdamW(torch.optim.AdamW):
    """AdamW that sleeps before it steps."""

    seconds = 0.0
    began = 0.0  # the last step

    def step(self, closure: None = None) -> None:
        self.began = time.perf_counter()
        time.sleep(self.seconds)
        super().step(closure)


class Samples(Dataset):
    """Samples of which the first PADDING positions are padding and the first IGNORED positions have no label.

    Handing one out takes `seconds`; all that have been took `handing_out_s`.
    """

    def __init__(self, sequence: int, seconds: float = 0.0) -> None:
        ids = torch.randint(VOCABULARY, (10_000, sequence))
        mask, labels = torch.ones_like(ids), ids.clone()
        mask[:, :PADDING] = 0
        labels[:, :IGNORED] = -100
        self.columns = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        self.seconds = seconds
        self.handing_out_s = 0.0

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        began = time.perf_counter()
        time.sleep(self.seconds)
        sample = {name: column[index] for name, column in self.columns.items()}
        self.handing_out_s += time.perf_counter() - began
        return sample


def train(model: nn.Module, options: argparse.Namespace) -> None:
    """The usual loop, with the oddities that were asked for."""
    sleeper = next(module for module in model.modules() if isinstance(module, Sleeper))
    optimizer = SlowAdamW(model.parameters())
    optimizer.seconds = options.optimizer_seconds / options.optimizer_steps
    if options.wrap_late:
        model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
        optimizer.zero_grad()
        model = Wrapper(model)
    if options.optimizer_before_training:
        optimizer.step()
    samples = Samples(options.sequence, options.loading_seconds / options.accumulate / options.batch)
    batches = iter(DataLoader(samples, batch_size=options.batch))
    held_out = iter(DataLoader(Samples(options.sequence), batch_size=options.batch + 1))
    stopwatch: dict[str, list[tuple[float, float]]] = {"forward": [], "optimizer": [], "loading_s": []}
    for step in range(options.steps):
        for micro_step in range(options.accumulate):
            before, handing_out_s = time.perf_counter(), samples.handing_out_s
            batch = next(batches)
            stopwatch["loading_s"].append((samples.handing_out_s - handing_out_s, time.perf_counter() - before))
            if options.embed_alone:
                sleeper.embedding(batch["input_ids"])
            before = time.perf_counter()
            logits = model(batch["input_ids"])
            if micro_step == 0:
                stopwatch["forward"].append((before, sleeper.began))
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
            loss.backward()
        for optimizer_step in range(options.optimizer_steps):
            before = time.perf_counter()
            optimizer.step()
            if optimizer_step == 0:
                stopwatch["optimizer"].append((before, optimizer.began))
        optimizer.zero_grad()
        if options.evaluate:
            with torch.no_grad():
                model(next(held_out)["input_ids"])
        if step == options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
    if options.stopwatch:
        options.stopwatch.write_text(json.dumps(stopwatch))
    print(f"final loss {loss.item():.9f}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.0], help="per step; one for each rank")
    parser.add_argument("--loading-seconds", type=float, default=0.0, help="of these, in the DataLoader")
    parser.add_argument("--optimizer-seconds", type=float, default=0.0, help="of these, in the optimizer")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--sequence", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches per optimizer step")
    parser.add_argument("--optimizer-steps", type=int, default=1, help="optimizer.step() calls per step")
    parser.add_argument("--optimizer-before-training", action="store_true")
    parser.add_argument("--evaluate", action="store_true", help="after each step")
    parser.add_argument("--stopwatch", type=Path, help="write what its own clock says to this file, in s")
    parser.add_argument("--embed-alone", action="store_true", help="call the embedding by itself before each forward")
    parser.add_argument("--wrap-late", action="store_true", help="wrap the model after a first forward of it")
    parser.add_argument("--ddp", action="store_true", help="one of several ranks, started by torchrun")
    parser.add_argument("--die-after", type=int, default=-1, help="SIGKILL itself after this step")
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.ddp:
        torch.distributed.init_process_group("gloo")
        rank = torch.distributed.get_rank()
        mine = given.seconds[rank % len(given.seconds)] / given.accumulate
        train(nn.parallel.DistributedDataParallel(Sleeper(mine)), given)
        leave()
    else:
        train(Sleeper(given.seconds[0] / given.accumulate), given)
