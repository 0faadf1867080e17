"""What has no FLOP formula and may be a product is listed, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mfubench.config import Mode
from mfubench.flops import profile
from mfubench.flops.isolation import isolated
from mfubench.flops.trace import may_multiply_matrices, trace
from mfubench.flops.twin import bare
from mfubench.workload.architecture import config_of


def suspects(run: Any) -> set[str]:
    """The operators that `run` calls and the rule lists."""
    found = set()

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if may_multiply_matrices(func, args, kwargs or {}):
                found.add(func._schema.name)
            return func(*args, **(kwargs or {}))

    with Spy():
        run()
    return found


def test_a_grouped_product_has_no_formula_and_is_listed(small: dict[str, Any]) -> None:
    experts = {**small, "model_type": "mixtral", "hidden_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2}
    with isolated():
        model = bare(config_of(experts), experts="grouped_mm")
        found = trace(model, batch_size=1, sequence_length=16)
    # gate-and-up and down, once forward and twice backward, in two blocks
    assert found.uncounted == {"aten::_grouped_mm": 12}


@pytest.mark.parametrize("experts", [{"model_type": "mixtral", "num_local_experts": 4}, {"model_type": "qwen3_moe"}])
def test_a_mixture_of_experts_lists_nothing(small: dict[str, Any], modes: dict[str, Mode], experts: Any) -> None:
    counted = profile({**small, **experts}, modes["full"], recomputation="reentrant", attention="sdpa")
    assert counted.uncounted == {}


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt2", "gpt_neox"])
def test_a_dense_model_lists_nothing(small: dict[str, Any], modes: dict[str, Mode], model_type: str) -> None:
    architecture = {**small, "model_type": model_type, "hidden_size": 48, "pad_token_id": 0}
    for recomputation in ("none", "reentrant", "non_reentrant"):
        counted = profile(architecture, modes["full"], recomputation=recomputation, attention="eager")
        assert counted.uncounted == {}


def test_products_that_pytorchs_counter_takes_for_nothing_are_listed() -> None:
    numbers, whole = torch.ones(16, 16), torch.ones(32, 32, dtype=torch.int8)
    assert suspects(lambda: torch.mv(numbers, numbers[0])) == {"aten::mv"}
    assert suspects(lambda: torch._int_mm(whole, whole)) == {"aten::_int_mm"}
    heads = torch.ones(1, 2, 8, 16)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert suspects(lambda: attend(heads, heads, heads)) == {"aten::_scaled_dot_product_flash_attention_for_cpu"}


def test_a_custom_operator_on_a_matrix_is_listed_even_with_its_second_factor_hidden() -> None:
    with torch.library._scoped_library("mfubench_test", "FRAGMENT") as library:
        library.define("kernel(Tensor x) -> Tensor")
        library.impl("kernel", lambda x: x.clone(), "CPU")
        kernel = torch.ops.mfubench_test.kernel
        assert suspects(lambda: kernel(torch.ones(4, 4))) == {"mfubench_test::kernel"}
        assert suspects(lambda: kernel(torch.ones(4))) == set()


def test_elementwise_work_views_look_ups_and_losses_are_not_listed() -> None:
    weights = torch.ones(16, 16, requires_grad=True)
    ids = torch.zeros(4, dtype=torch.long)

    def run() -> None:
        rows = torch.nn.functional.embedding(ids, weights)
        rows = torch.nn.functional.dropout(torch.nn.functional.silu(rows) * rows, 0.5)
        rows = torch.nn.functional.layer_norm(torch.cat([rows, rows.flip(0)]), (16,), weights[0], weights[1])
        probabilities = torch.softmax(rows.transpose(0, 1), -1).t() + torch.where(rows > 0, rows, -rows)
        torch.nn.functional.cross_entropy(probabilities, torch.zeros(8, dtype=torch.long)).backward()

    assert suspects(run) == set()
