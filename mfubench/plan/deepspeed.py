"""Build DeepSpeed's configuration of a run, and refuse options that contradict the run's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mfubench.config import Experiment, WrongCombination
from mfubench.plan.support import Values, branches

AUTO = "auto"


def deepspeed_layers(experiment: Experiment, values: Values) -> list[dict[str, Any]] | None:
    """Return the layers of DeepSpeed's configuration, the last one winning; None without DeepSpeed.

    The branches of its `when` come first, then its own keys, among which are the user's.
    """
    given = experiment.parallelism.deepspeed
    if given is None:
        return None
    base = {key: value for key, value in given.items() if key != "when"}
    chosen = branches(f"parallelism={experiment.parallelism.name}", given.get("when", {}), values)
    return [*(content for _, content in chosen), base]


def check_deepspeed(tree: Mapping[str, Any], experiment: Experiment, precision: str) -> None:
    """Raise WrongCombination if a DeepSpeed option contradicts the run's settings.

    Args:
        tree: DeepSpeed's configuration; an option that is absent or "auto" contradicts nothing.
        experiment: the run's settings.
        precision: resolved (bf16, bf16_pure or fp32).
    """
    wanted = {
        "bf16.enabled": (precision != "fp32", f"precision={precision}"),
        "bf16.bf16_master_weights_and_grads": (precision == "bf16_pure", f"precision={precision}"),
        "bf16.bf16_optimizer_states": (precision == "bf16_pure", f"precision={precision}"),
        "fp16.enabled": (False, f"precision={precision}"),
        "train_micro_batch_size_per_gpu": (experiment.batch_size, f"batch_size={experiment.batch_size}"),
        "gradient_accumulation_steps": (
            experiment.gradient_accumulation_steps,
            f"gradient_accumulation_steps={experiment.gradient_accumulation_steps}",
        ),
    }
    stage = experiment.parallelism.name.removeprefix("zero")
    if stage.isdigit():
        wanted["zero_optimization.stage"] = (int(stage), f"parallelism={experiment.parallelism.name}")
    for key, (right, because) in wanted.items():
        said = _option_at(tree, key)
        if said not in (None, AUTO, right):
            written = str(right).lower()
            raise WrongCombination(
                f"DeepSpeed's {key}={str(said).lower()} contradicts {because}",
                given=f"parallelism.deepspeed.{key}={str(said).lower()}",
                expected=f"{written}, as {because} needs",
                instead=f"++parallelism.deepspeed.{key}={written}",
            )


def _option_at(tree: Any, key: str) -> Any:
    """Return the value at a dotted key; None if there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree
