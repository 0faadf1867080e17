"""Every framework that is installed here, on the default model: the same work, measured by one sweep."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

Results = list[dict[str, Any]]


def seen(results: Iterable[dict[str, Any]], mode: str, *path: str) -> dict[str, Any]:
    """Framework → the figure at `path` of its result in this mode."""
    figures = {}
    for result in results:
        if result["settings"]["mode"]["name"] == mode:
            value: Any = result
            for key in path:
                value = value[key]
            figures[result["settings"]["framework"]["name"]] = value
    return figures


def the_one(figures: dict[str, Any]) -> Any:
    """The value that all frameworks share."""
    assert len(set(figures.values())) == 1, figures
    return next(iter(figures.values()))


def test_every_framework_is_measured_in_both_modes(side_by_side: Results) -> None:
    assert {result["name"]: (result["status"], result["reason"]) for result in side_by_side} == {
        result["name"]: ("ok", None) for result in side_by_side
    }


def test_every_framework_computes_the_same_positions_in_a_step(side_by_side: Results) -> None:
    for mode in ("full", "lora"):
        assert the_one(seen(side_by_side, mode, "measurement", "positions_per_step")) == 2 * 256


def test_every_framework_trains_the_same_parameters(side_by_side: Results) -> None:
    # llama-tiny by hand: embedding and lm_head, and in each of 4 blocks q and o, k and v, the MLP, two norms; a last norm.
    block = 2 * 384 * 384 + 2 * 384 * 128 + 3 * 384 * 1024 + 2 * 384
    assert the_one(seen(side_by_side, "full", "work", "trainable_parameters")) == 2 * 8192 * 384 + 4 * block + 384
    # LoRA of rank 8 beside a layer from n to m adds 8 (n + m).
    lora = 4 * 8 * (2 * (384 + 384) + 2 * (384 + 128) + 3 * (384 + 1024))
    assert the_one(seen(side_by_side, "lora", "work", "trainable_parameters_with_gradient")) == lora
    assert the_one(seen(side_by_side, "lora", "work", "trainable_parameters")) == lora


def test_every_framework_begins_with_exactly_the_weights_on_the_disk(side_by_side: Results) -> None:
    import torch
    from safetensors.torch import load_file

    native = yaml.safe_load(seen(side_by_side, "full", "plan", "config")["hf_trainer"])
    on_disk = load_file(Path(native["model_name_or_path"]) / "model.safetensors")
    values = torch.cat([weight.flatten() for weight in on_disk.values()]).sort().values
    begun = seen(side_by_side, "full", "weights")
    assert begun == dict.fromkeys(begun, sha256(values.numpy().tobytes()).hexdigest())


def test_every_framework_recomputes_nothing_and_steps_fp32_weights_with_adamw(side_by_side: Results) -> None:
    for mode in ("full", "lora"):
        assert the_one(seen(side_by_side, mode, "work", "recomputation")) == "none"
        trained = the_one(seen(side_by_side, mode, "work", "trainable_parameters"))
        for name, optimizers in seen(side_by_side, mode, "work", "optimizers").items():
            stepped = [(each["class"], each["steps"]) for each in optimizers]
            assert stepped == [("AdamW", {"float32": trained})], name


def test_every_framework_is_held_against_the_same_flops(side_by_side: Results) -> None:
    for mode in ("full", "lora"):
        assert the_one(seen(side_by_side, mode, "flops", "model_flops")) > 0


def test_the_step_of_every_framework_is_explained(side_by_side: Results) -> None:
    for mode in ("full", "lora"):
        for name, found in seen(side_by_side, mode, "explanation").items():
            categories = dict(found["categories_s"])
            busy = sum(categories.values()) - categories.pop("idle", 0.0)
            known = {category: seconds for category, seconds in categories.items() if category != "other"}
            assert sum(known.values()) >= 0.9 * busy, (name, mode, found["kernels"])
            assert {"matmul", "attention", "optimizer", "elementwise"} <= known.keys(), (name, mode)
