"""Trains the tiny Llama of llama.py under fully_shard: each block and the rest, two micro-batches a step, four steps.

The blocks are recomputed without reentering; weights are multiplied in bfloat16 and stepped in float32. Rank 0 writes
[before, after] of the first forward of every step to --stopwatch, in ns of the monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.distributed
from llama import build
from rank import leave
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

STEPS, ACCUMULATION = 4, 2

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stopwatch", type=Path, required=True)
    given = parser.parse_args()
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = build(checkpointing="non_reentrant")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters())
    first_forwards = []
    for _ in range(STEPS):
        for micro_step in range(ACCUMULATION):
            ids = torch.randint(64, (2, 16))
            before = time.perf_counter_ns()
            loss = model(input_ids=ids, labels=ids).loss
            if micro_step == 0:
                first_forwards.append([before, time.perf_counter_ns()])
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if torch.distributed.get_rank() == 0:
        given.stopwatch.write_text(json.dumps(first_forwards))
    leave()
