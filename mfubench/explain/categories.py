"""The categories of what runs on a device, and the names of kernels as they are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# "idle" is the time in which none of the others runs.
CATEGORIES = (
    *("matmul", "attention", "normalisation", "elementwise", "rotary", "loss", "optimizer", "quantisation"),
    *("communication", "copy", "other", "idle"),
)
VIEWS = "views and dispatch"


@dataclass(frozen=True)
class Kind:
    """The category of a kernel or operator, and the work beside which it counts."""

    category: str  # of CATEGORIES
    name: str  # as given, or VIEWS
    rank: Literal["compute", "collective", "transfer"] = "compute"  # each hides those after it


def short_name(name: str) -> str:
    """Return a kernel's name for display: without PyTorch's namespaces, template arguments and Triton's counter.

    Of PyTorch's generic kernels the function that they apply is kept: vectorized_elementwise_kernel<CUDAFunctor_add>.
    """
    plain = re.sub(r"\(anonymous namespace\)::|<unnamed>::|^void |\bat::native::(detail::)?", "", name)
    head = re.sub(r"<.*|(?<=\w)\(.*", "", plain)
    applied = re.search(r"\w+(?:Functor|Ops\b|_kernel|Kernel)\w*|\w+_cuda\b", plain[len(head) :])
    generic = head.endswith(("elementwise_kernel", "apply_kernel", "reduce_kernel"))
    return f"{head}<{applied[0]}>" if applied and generic else re.sub(r"^(triton_\w+)_\d+$", r"\1", head)
