"""The FLOPs of one step under each published formula: the numerators that other tools would put in an MFU.

The formulas are data, in conventions.yaml: arithmetic over the quantities named here. Other tools' names occur only there.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from mfubench.flops.counts import FlopCount
from mfubench.flops.profile import Profile
from mfubench.workload.architecture import setting_of

ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
VARIES = "varies"  # a size that isn't the same in all layers is none
CONVENTIONS_FILE = Path(__file__).with_name("conventions.yaml")
ARCHITECTURE_QUANTITIES = {  # of an architecture
    "N": "parameters of the model, without LoRA's; tied ones once",
    "N_embedding": "parameters of the input embedding",
    "N_idle": "parameters of the experts a token doesn't use",
    "N_shared": "parameters of the experts that every token uses",
    "tied": "1 if lm_head is the input embedding, else 0",
    "L": "blocks",
    "h": "hidden size",
    "f": "intermediate size",
    "f_expert": "intermediate size of an expert, or of the MLP without experts",
    "heads": "attention heads",
    "kv_heads": "key-value heads",
    "d_head": "channels of a head",
    "experts": "experts of a block's router; 0 without one",
    "experts_per_token": "experts per token; 1 without a router",
    "vocab": "entries of the vocabulary",
}
STEP_QUANTITIES = {  # of one optimizer step, on one device
    "T": "tokens",
    "s": "tokens of a sequence",
    "N_lora": "parameters of the LoRA matrices; 0 in full training",
    "model_flops": "counted: no recomputation, full square",
    "model_flops_causal": "counted: no recomputation, visible pairs only",
    "hardware_flops": "counted: with recomputation, full square",
    "hardware_flops_causal": "counted: with recomputation, without the pairs that the kernel skips",
}


@dataclass(frozen=True)
class Convention:
    """A published formula for the FLOPs of a training step, over ARCHITECTURE_QUANTITIES and STEP_QUANTITIES."""

    name: str
    flops: str
    words: str
    source: str
    lora: str | None = None  # the expression for LoRA, if it differs


@dataclass(frozen=True)
class ConventionFigure:
    """A convention's FLOPs of a step on one device. None: the architecture lacks one of the formula's quantities."""

    convention: Convention
    expression: str  # for this mode
    flops: int | None


def published() -> tuple[Convention, ...]:
    """All conventions, in the order of the file."""
    return tuple(Convention(**entry) for entry in yaml.safe_load(CONVENTIONS_FILE.read_text(encoding="utf-8")))


def figures(
    profile: Profile, step: FlopCount, *, tokens: int, sequence_length: int, lora: bool
) -> list[ConventionFigure]:
    """Every convention's FLOPs of `step`, the count of `tokens` positions in sequences of `sequence_length`."""
    adapters = step.trainable_parameters if lora else 0
    quantities = {
        **profile.sizes,
        "T": tokens,
        "s": sequence_length,
        "N_lora": adapters,
        **step.flops,
    }

    def figure(convention: Convention) -> ConventionFigure:
        expression = convention.lora if lora and convention.lora is not None else convention.flops
        known = names_in(expression) <= quantities.keys()
        return ConventionFigure(convention, expression, round(evaluate(expression, quantities)) if known else None)

    return [figure(convention) for convention in published()]


def architecture_quantities(config: Any, model: Any) -> dict[str, int]:
    """ARCHITECTURE_QUANTITIES of transformers' `model` of `config`; those that the architecture lacks are left out."""
    text = config.get_text_config()
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings()
    heads, experts = setting_of(text, "num_attention_heads"), setting_of(text, "num_local_experts")
    experts = experts or setting_of(text, "num_experts") or 0
    per_token = setting_of(text, "num_experts_per_tok") if experts else 1
    of_experts = sum(n.numel() for name, n in model.named_parameters() if "experts" in name.split("."))
    names = {"shared_expert", "shared_experts"}
    shared = sum(n.numel() for name, n in model.named_parameters() if names & {*name.split(".")})
    width, wide = setting_of(text, "hidden_size"), setting_of(text, "intermediate_size")
    sizes = {
        "N": sum(parameter.numel() for parameter in model.parameters()),
        "N_embedding": embedding.numel(),
        "N_idle": of_experts * (experts - per_token) // experts if experts and per_token else 0,
        "N_shared": shared,
        "tied": int(output is not None and output.weight is embedding),
        "L": setting_of(text, "num_hidden_layers"),
        "h": width,
        "f": wide,
        "f_expert": setting_of(text, "moe_intermediate_size") or wide,
        "heads": heads,
        "kv_heads": setting_of(text, "num_key_value_heads", varying=VARIES) or heads,
        "d_head": setting_of(text, "head_dim", varying=VARIES) or (width // heads if width and heads else None),
        "experts": experts,
        "experts_per_token": per_token,
        "vocab": text.vocab_size,
    }
    return {name: size for name, size in sizes.items() if isinstance(size, int)}


def names_in(expression: str) -> set[str]:
    """The names of the quantities in an expression."""
    return {node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)}


def evaluate(expression: str, quantities: Mapping[str, int]) -> Fraction:
    """The exact value of arithmetic over named quantities: + - * / ** and brackets.

    Raises ValueError for anything else, and for a name that is not among the quantities.
    """

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() | float() as number):
                return Fraction(number)
            case ast.Name(id=name) if name in quantities:
                return Fraction(quantities[name])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as power)):
                return value(left) ** power
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in ARITHMETIC:
                return ARITHMETIC[type(sign)](value(left), value(right))
        raise ValueError(
            f"{expression!r}: {ast.unparse(node)!r} is not arithmetic (+ - * / ** and brackets) over "
            f"{', '.join(sorted(quantities))}"
        )

    return value(ast.parse(expression, mode="eval").body)
