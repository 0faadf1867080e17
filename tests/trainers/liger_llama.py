"""Trains the tiny Llama of llama.py for three steps with Liger's kernels, which Triton's interpreter runs on a CPU.

The interpreter of Triton 3.7 cannot run the kernels of rms_norm and swiglu.
"""

from __future__ import annotations

import argparse
import os

os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it while it is imported

import torch
from liger_kernel.transformers import apply_liger_kernel_to_llama
from llama import build

SWITCHES = ("rope", "rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy")

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("switches", nargs="+", choices=SWITCHES)
    given = parser.parse_args()
    apply_liger_kernel_to_llama(**{name: name in given.switches for name in SWITCHES})
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(64, (2, 16))
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
