"""What has no FLOP formula and may be a product is listed, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mfubench.config import Mode
from mfubench.flops.count import profile
from mfubench.flops.meta_model import bare_model, isolated
from mfubench.flops.trace import trace
from mfubench.probe.formulas import described, may_multiply_matrices
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


def test_an_operator_without_a_formula_is_listed_with_its_calls_and_shapes(small: dict[str, Any]) -> None:
    class Gate(torch.nn.Module):
        def forward(self, hidden: Any) -> Any:
            return hidden + torch.ops.mfubench_test.kernel(hidden.detach(), hidden.detach()[0])

    with isolated(), torch.library._scoped_library("mfubench_test", "FRAGMENT") as library:
        library.define("kernel(Tensor x, Tensor y) -> Tensor")
        library.impl("kernel", lambda x, y: torch.empty_like(x), "Meta")
        model = bare_model(config_of(small))
        for block in model.model.layers:
            block.mlp.act_fn = Gate()
        one, other = (trace(model, batch_size=1, sequence_length=length) for length in (8, 5))
    assert one.uncounted == {"mfubench_test::kernel [1, 8, 112] x [8, 112]": 2}  # one in either block
    assert other.uncounted == {"mfubench_test::kernel [1, 5, 112] x [5, 112]": 2}
    assert one.uncounted_operators == other.uncounted_operators == {"mfubench_test::kernel": 2}


def test_of_many_shapes_the_first_four_are_told() -> None:
    four, five = ([torch.ones(2, size) for size in range(1, count + 1)] for count in (4, 5))
    concatenate = torch.ops.aten.cat.default
    assert described(concatenate, (four, 1), {}) == "aten::cat [2, 1] x [2, 2] x [2, 3] x [2, 4]"
    assert described(concatenate, (five, 1), {}) == "aten::cat [2, 1] x [2, 2] x [2, 3] x [2, 4] x ..."


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


def test_products_of_pytorchs_own_without_a_formula_are_listed() -> None:
    numbers = torch.ones(2, 16, 16)
    assert suspects(lambda: torch.addbmm(numbers[0], numbers, numbers)) == {"aten::addbmm"}
    assert suspects(lambda: torch.cdist(numbers[0], numbers[1])) == {"aten::_cdist_forward"}
    assert suspects(lambda: torch.linalg.solve_triangular(numbers[0], numbers[1], upper=True)) == {
        "aten::linalg_solve_triangular"
    }


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
        rows = rows.index_add(0, ids, rows[:4]).masked_scatter(rows > 9, rows)
        probabilities = torch.softmax(rows.transpose(0, 1), -1).t() + torch.where(rows > 0, rows, -rows)
        torch.nn.functional.cross_entropy(probabilities, torch.zeros(8, dtype=torch.long)).backward()

    assert suspects(run) == set()


def test_work_in_proportion_to_the_elements_is_not_listed_even_of_operators_nobody_has_named() -> None:
    numbers = torch.ones(2, 16, 16, requires_grad=True)

    def run() -> None:
        angles = torch.polar(numbers, numbers).abs()
        steps = torch.nn.functional.softplus(angles) + torch.nn.functional.logsigmoid(numbers)
        near = torch.nn.functional.smooth_l1_loss(torch.logaddexp(steps, numbers), torch.copysign(steps, angles))
        near.backward()

    assert suspects(run) == set()


def test_square_factors_do_not_make_a_product_look_like_elementwise_work() -> None:
    square = torch.ones(16, 16)
    assert suspects(lambda: torch.cdist(square, square)) == {"aten::_cdist_forward"}
    assert suspects(lambda: torch.linalg.solve(square + torch.eye(16), square)) == {"aten::_linalg_solve_ex"}
    assert suspects(lambda: torch.cholesky_solve(square, torch.eye(16))) == {"aten::cholesky_solve"}


@pytest.mark.parametrize("model_type", ["deepseek_v2", "llama4_text"])
def test_complex_rotary_embeddings_list_nothing(small: dict[str, Any], modes: dict[str, Mode], model_type: str) -> None:
    latent = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 1,
        "first_k_dense_replace": 1,
        "num_local_experts": 4,
        "pad_token_id": 0,
    }
    architecture = {**small, **(latent if model_type == "deepseek_v2" else {}), **experts, "model_type": model_type}
    assert profile(architecture, modes["full"], recomputation="none", attention="eager").uncounted == {}


def test_what_an_optimizer_does_and_what_devices_send_each_other_is_not_listed() -> None:
    weights = [torch.nn.Parameter(torch.ones(16, 16)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.ones(16, 16)

    def run() -> None:
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        for kind in ({"fused": True}, {"foreach": True}, {"foreach": False}):
            torch.optim.AdamW(weights, **kind).step()

    assert suspects(run) == set()
    gathered = torch.ops._c10d_functional.all_reduce.default
    assert not may_multiply_matrices(gathered, (torch.ones(16, 16), "sum", "0"), {})
