"""Trains a small Llama in steps with and without the probe, in turns, and clocks each: both sides share one process.

In: `toggled.py MODEL_YAML RECORDS OPTIONS`. Out, as JSON: {"on_s", "off_s"}, a mean step time of each in every round.
A round is on, off, off, on, so that a drift within it slows both sides alike.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.optim.optimizer as optimizers
import yaml
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter
from transformers import AutoConfig, AutoModelForCausalLM

from mfubench.probe.events import Writer
from mfubench.probe.observer import install

ROUND = (True, False, False, True)
CALLS = ("__call__", "_call_impl")


class Probe:
    """Everything that the probe replaces in torch, to be put in and taken out again."""

    def __init__(self, records: Path) -> None:
        self._off = in_place()
        install(Writer(str(records)), profile_flops=False)
        self._on = self._off

    def settled(self) -> None:
        """Note what the probe has in place once it has looked at the first steps."""
        self._on = in_place()

    def switch(self, on: bool) -> None:
        """Nothing but replacing what is called: no step pays for what is not there."""
        (next_batch, *hooks), calls = self._on if on else self._off
        _BaseDataLoaderIter.__next__ = next_batch
        for there, wanted in zip(global_hooks(), hooks, strict=True):
            there.clear()
            there.update(wanted)
        for kind, name in {**self._on[1], **self._off[1]}:
            if (kind, name) in calls:
                setattr(kind, name, calls[kind, name])
            elif name in vars(kind):
                delattr(kind, name)


def in_place() -> tuple[list[Any], dict[tuple[type, str], Any]]:
    """The loaders' entry and the optimizers' hooks, and every class's own entry to a call of its modules."""
    kinds = [nn.Module]
    for kind in kinds:
        kinds += kind.__subclasses__()
    calls = {(kind, name): vars(kind)[name] for kind in kinds for name in CALLS if name in vars(kind)}
    return [_BaseDataLoaderIter.__next__, *map(dict, global_hooks())], calls


def global_hooks() -> tuple[dict[int, Any], dict[int, Any]]:
    """Of all optimizers, before and after a step."""
    return optimizers._global_optimizer_pre_hooks, optimizers._global_optimizer_post_hooks


def main(given: argparse.Namespace) -> dict[str, list[float]]:
    """The step times of all rounds after the warm-up."""
    torch.manual_seed(0)
    architecture = yaml.safe_load(given.model.read_text(encoding="utf-8"))["architecture"]
    architecture |= json.loads(given.architecture)
    model = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture, use_cache=False)).train().to(given.device)
    )
    if given.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    steps = given.warmup + given.rounds * len(ROUND)
    tokens = torch.randint(architecture["vocab_size"], (2 * steps, given.sequence_length))
    samples = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids} for ids in tokens]
    batches = iter(DataLoader(samples, batch_size=2))

    def step() -> float:
        began = time.perf_counter()
        batch = {name: tensor.to(given.device) for name, tensor in next(batches).items()}
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if given.device == "cuda":
            torch.cuda.synchronize()  # the step's own end, not the host's
        return time.perf_counter() - began

    probe = Probe(given.records)
    for _ in range(given.warmup):
        step()
    probe.settled()
    rounds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(given.rounds):
        taken: dict[bool, list[float]] = {True: [], False: []}
        for on in ROUND:
            probe.switch(on)
            taken[on].append(step())
        for on, times in taken.items():
            rounds[on].append(sum(times) / len(times))
    return {"on_s": rounds[True], "off_s": rounds[False]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--architecture", default="{}", help="what of the model is other than the file says, as JSON")
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: not yet run")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=100)
    print(json.dumps(main(parser.parse_args())))
