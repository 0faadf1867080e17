"""The category of a kernel, or of an operator of a CPU, by its name; the patterns are data, in conf/kernels.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import yaml

from mfubench.explain.categories import VIEWS, Kind
from mfubench.files.paths import CONF

KERNELS_FILE = CONF / "kernels.yaml"


@dataclass(frozen=True)
class _Rules:
    dropped: re.Pattern[str]
    transfers: re.Pattern[str]
    views: re.Pattern[str]
    categories: tuple[tuple[str, re.Pattern[str]], ...]
    in_the_optimizer: frozenset[str]
    attention_products: re.Pattern[str]


@cache
def kind(name: str, operator: str = "", phase: str = "") -> Kind | None:
    """Return the kind of a kernel or operator; None if it is no work: an annotation or a record of the profiler's own.

    Args:
        name: of the kernel, demangled; for a CPU, of the operator.
        operator: that launched the kernel, if known. It decides what the names of softmax kernels may not show, and names a
            kernel that no pattern knows.
        phase: of the step, if known: what "optimizer" computes is the optimizer's.
    """
    rules = _rules()
    if rules.dropped.search(name):
        return None
    if rules.transfers.search(name):
        return Kind("copy", name, "transfer")
    if rules.views.search(name):
        return Kind("other", VIEWS, "compute")
    category = _category(operator if "softmax" in name.lower() and "softmax" in operator else name)
    if category == "other" and operator:
        category = _category(operator)
    if phase == "optimizer" and category in rules.in_the_optimizer:
        category = "optimizer"
    return Kind(category, name, "collective" if category == "communication" else "compute")


def computes_attention(kind: Kind) -> bool:
    """Return True for a kernel of attention that computes its products: those of eager attention are plain matmuls."""
    return kind.category == "attention" and _rules().attention_products.search(kind.name) is not None


def _category(name: str) -> str:
    return next((category for category, pattern in _rules().categories if pattern.search(name)), "other")


@cache
def _rules() -> _Rules:
    given = yaml.safe_load(KERNELS_FILE.read_text())

    def any_of(patterns: list[str]) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))

    return _Rules(
        dropped=any_of(given["dropped"]),
        transfers=any_of(given["transfers"]),
        views=any_of(given["views"]),
        categories=tuple((word, any_of(those)) for rule in given["categories"] for word, those in rule.items()),
        in_the_optimizer=frozenset(given["in_the_optimizer"]),
        attention_products=any_of(given["attention_products"]),
    )
