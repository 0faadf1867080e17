"""The open stack behind LLMForge's file: real trainings on one and two ranks, watched from inside by WATCH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import yaml
from architectures import BUILDS_OPERATORS

from mfubench.launch import extensions
from mfubench.plan.plan import Plan

pytestmark = BUILDS_OPERATORS

STEPS = 3
HIDDEN, MLP, VOCABULARY, LAYERS = 32, 48, 8192, 2
# embedding and head; by layer q and o, k and v of half the width, MLP, two norms; the last norm
WEIGHTS = 2 * VOCABULARY * HIDDEN + LAYERS * (2 * HIDDEN**2 + HIDDEN**2 + 3 * HIDDEN * MLP + 2 * HIDDEN) + HIDDEN
# rank 8 · (inputs + outputs) by layer: q and o, k and v, gate and up and down
LORA_WEIGHTS = LAYERS * 8 * (2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + HIDDEN // 2) + 3 * (HIDDEN + MLP))
# Notes, before each optimizer step, what the optimizer was given and what ran since the last. Python imports it first.
WATCH = """
import json, os, torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

shapes, tokens, linears = [], [], []

def before(module, arguments):
    if type(module) is torch.nn.Linear:
        linears.append(torch.is_grad_enabled())
    if type(module) is torch.nn.Embedding:
        shapes.append(list(arguments[0].shape))
        tokens.append(arguments[0].sum().item())

def step(optimizer, arguments, keywords):
    given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad.double() for parameter in given if parameter.grad is not None]
    line = json.dumps({
        "optimizer": type(optimizer).__name__,
        "fused": optimizer.defaults.get("fused"),
        "lr": optimizer.param_groups[0]["lr"],
        "dtypes": sorted({str(parameter.dtype) for parameter in given}),
        "parameters": sum(parameter.numel() for parameter in given),
        "with_gradient": sum(bool(gradient.abs().sum() > 0) for gradient in gradients),
        "squares": sum(parameter.double().square().sum().item() for parameter in given),
        "norm": sum(gradient.square().sum().item() for gradient in gradients) ** 0.5,
        "shapes": shapes, "tokens": tokens,
        "linears": len(linears), "without_graph": linears.count(False),
    })
    with open(os.path.join(os.environ["WATCHED"], "seen%s.jsonl" % os.environ.get("RANK", "0")), "a") as seen:
        seen.write(line + "\\n")
    shapes.clear(), tokens.clear(), linears.clear()

register_module_forward_pre_hook(before)
register_optimizer_step_pre_hook(step)
"""

Seen = list[list[dict[str, Any]]]  # by rank, by step


def watched(command: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> Seen:
    """Run the program and return what WATCH noted in its ranks."""
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    inherited = {**os.environ, **extensions.build_environment(sys.executable)}
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**inherited, **environment, "PYTHONPATH": str(folder / "watch"), "WATCHED": str(folder)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(folder.glob("seen*.jsonl"))]


def by_hand(native: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Sums of squares of all weights, and clipped gradient norms, before each step of a plain PyTorch loop in which a step
    takes four samples."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(native["model_id"])
    model = AutoModelForCausalLM.from_pretrained(native["model_id"], dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    squares, norms = [], []
    turns = [json.loads(line)["messages"] for line in Path(native["train_path"]).read_text().splitlines()]
    for first in range(0, 4 * STEPS, 4):
        encoded: Any = tokenizer.apply_chat_template(turns[first : first + 4], tokenize=True, return_dict=True)
        ids = torch.tensor([tokens[: native["context_length"]] for tokens in encoded["input_ids"]])
        logits = model(ids).logits[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).backward()
        norms.append(min(1.0, torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()))
        squares.append(sum(weight.detach().double().square().sum().item() for weight in model.parameters()))
        optimizer.step()
        optimizer.zero_grad()
    return squares, norms


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "overrides",
    [
        ("gradient_accumulation_steps=2",),
        ("parallelism=ddp", "gradient_checkpointing=reentrant"),
        ("parallelism=zero3",),
    ],
    ids=["accumulated", "ddp", "zero3"],
)
def test_every_way_to_take_four_samples_a_step_takes_the_steps_of_a_loop_by_hand(
    planned: Callable[..., Plan], tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    made = planned(*overrides)
    seen = watched(made.command, tmp_path, made.environment)
    assert len(seen) == made.num_ranks and all(len(steps) == STEPS for steps in seen)
    squares, norms = by_hand(yaml.safe_load(made.config_text))
    shards = len(seen) if "parallelism=zero3" in overrides else 1
    for step in range(STEPS):
        ranks = [steps[step] for steps in seen]
        assert all(rank["shapes"] == [[2, 32]] * (2 // len(seen)) for rank in ranks)
        assert {rank["lr"] for rank in ranks} == {1e-4}
        held = ranks if shards > 1 else ranks[:1]
        assert sum(rank["parameters"] for rank in held) == pytest.approx(WEIGHTS, abs=64)  # shards are rounded up
        assert sum(rank["squares"] for rank in held) == pytest.approx(squares[step], abs=2e-4)
        assert sqrt(sum(rank["norm"] ** 2 for rank in held)) == pytest.approx(norms[step], rel=1e-3)
    # Weights that stood still, or went elsewhere, would be told from these.
    assert abs(squares[2] - squares[1]) > 2e-3 and max(norms) == 1.0


def test_a_checkpointed_lora_trains_its_matrices_alone_for_as_many_epochs_as_its_steps_take(
    planned: Callable[..., Plan], tmp_path: Path
) -> None:
    made = planned("mode=lora", "gradient_checkpointing=reentrant", "seed=3")
    native = {**yaml.safe_load(made.config_text), "min_update_steps": 5, "num_warmup_steps": 2}
    native["lr_scheduler_type"] = "linear"
    del native["num_epochs"]
    made.config_path.write_text(yaml.safe_dump(native))
    (seen,) = watched(made.command, tmp_path, made.environment)
    # Two epochs of three steps. Up to 1e-4 in two of them, and down in four.
    assert [step["lr"] for step in seen] == pytest.approx([0, 5e-5, 1e-4, 7.5e-5, 5e-5, 2.5e-5])
    assert {(step["optimizer"], step["fused"], step["parameters"]) for step in seen} == {("AdamW", True, LORA_WEIGHTS)}
    # B is zero until a step has moved it, so A's gradients are too.
    assert [step["with_gradient"] for step in seen] == [14, 14, 28, 28, 28, 28]
    assert [step["tokens"] for step in seen[:3]] == [step["tokens"] for step in seen[3:]]
    # In each block 7 frozen layers and 14 matrices: forward without a graph, then recomputed with one; the head once.
    assert all(step["without_graph"] == 2 * 21 and step["linears"] == 2 * 2 * 21 + 1 for step in seen)


def test_the_published_file_trains_on_two_ranks_from_its_name_alone(project: Path, finetune: Path) -> None:
    seen = watched((sys.executable, str(finetune), "published.yaml"), project, {"OMP_NUM_THREADS": "1"})
    assert [len(steps) for steps in seen] == [2, 2]  # 8 samples, 2 by each of 2 ranks
    # The LoRA on lm_head is trained too; each rank holds half of everything, in float32 beside bf16 weights.
    trained = LORA_WEIGHTS + 8 * (HIDDEN + VOCABULARY)
    for first, second in zip(*seen, strict=True):
        assert first["parameters"] + second["parameters"] == pytest.approx(trained, abs=16)
        assert first["dtypes"] == second["dtypes"] == ["torch.float32"]
        assert first["shapes"] == second["shapes"] == [[2, 64]]  # padded
        assert first["tokens"] != second["tokens"]
        assert first["without_graph"] == 2 * 21  # checkpointing is LLMForge's default
    # The default schedule: a cosine after ten steps of warm-up.
    assert [step["lr"] for step in seen[0]] == pytest.approx([0, 1e-5])
