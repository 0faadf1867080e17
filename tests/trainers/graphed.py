"""Trains on CUDA by replaying one graph of forward and backward, with the optimizer's step outside; prints its own step time.

python graphed.py STEPS. Not yet run on a GPU.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import nn

if __name__ == "__main__":
    steps = int(sys.argv[1])
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(8))).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)

    side = torch.cuda.Stream()  # as torch asks for: warmed up on a stream of its own
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            model(batch).square().mean().backward()
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(batch).square().mean()
        loss.backward()

    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        graph.replay()
        optimizer.step()
    torch.cuda.synchronize()
    print((time.perf_counter() - began) / steps)
