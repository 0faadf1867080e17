"""Every formula against a count by hand, written out beside it; and a whole training step against the trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mfubench.config import Mode
from mfubench.flops.count import count
from mfubench.probe.formulas import described, flops_of, may_multiply_matrices, name_of

BATCH, LENGTH, HEADS, KEY_HEADS, HEAD_DIM, VALUE_DIM = 2, 24, 4, 2, 16, 8
SQUARE = 2 * BATCH * HEADS * LENGTH * LENGTH  # FLOPs of all pairs of positions, per channel
FORWARD = SQUARE * (HEAD_DIM + VALUE_DIM)  # scores, output
BACKWARD = SQUARE * (3 * HEAD_DIM + 2 * VALUE_DIM)  # scores again, queries', keys'; values', probabilities'
ENDS = [0, 10, 24, 48]  # of three documents, packed: 10, 14 and 24 positions
PAIRS = 10 * 10 + 14 * 14 + 24 * 24
BFLOAT16, BYTE = torch.bfloat16, torch.int8


def counted(run: Callable[[], Any]) -> tuple[dict[str, int], set[str]]:
    """FLOPs by operator of what `run` calls, and what has no formula and is listed."""
    flops: Counter[str] = Counter()
    listed = set()

    class Counting(TorchDispatchMode):
        supports_higher_order_operators = True

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            found = flops_of(func, args, kwargs, out)
            if found is not None:
                flops[name_of(func)] += found
            elif may_multiply_matrices(func, args, kwargs):
                listed.add(described(func, args, kwargs))
            return out

    with Counting():
        run()
    return dict(flops), listed


def operator(namespace: str, schema: str) -> Any:
    """A context with an operator of that schema, which computes nothing."""

    @contextmanager
    def defined() -> Iterator[Any]:
        with torch.library._scoped_library(namespace, "FRAGMENT") as library:
            name = library.define(schema).rpartition("::")[2]
            function = getattr(getattr(torch.ops, namespace), name)
            returns = len(function.default._schema.returns)
            made = [torch.empty(0) for _ in range(returns)]
            library.impl(name, lambda *_, **__: tuple(made) if returns > 1 else made[0], "CPU")
            yield function

    return defined()


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(*shape, dtype=dtype)


def by_columns(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """As kernels of 8 bits and of groups want their second factor."""
    return torch.ones(*shape).mT.contiguous().to(dtype).mT


def heads(layout: str, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value; `layout`: which of batch, heads, sequence come first, or packed."""
    shapes = {
        "bhsd": lambda heads: (BATCH, heads, LENGTH),
        "bshd": lambda heads: (BATCH, LENGTH, heads),
        "packed": lambda heads: (BATCH * LENGTH, heads),
    }
    sizes = ((HEADS, HEAD_DIM), (KEY_HEADS, HEAD_DIM), (KEY_HEADS, VALUE_DIM))
    query, key, value = (torch.ones(*shapes[layout](number), channels, device=device) for number, channels in sizes)
    return query, key, value


@pytest.mark.parametrize(
    ("name", "run", "flops"),
    [
        ("mm", lambda: ones(3, 5) @ ones(5, 7), 2 * 3 * 5 * 7),
        ("mm", lambda: torch.mm(ones(3, 5), ones(5, 7), out=ones(3, 7)), 2 * 3 * 5 * 7),
        ("bmm", lambda: ones(4, 3, 5) @ ones(4, 5, 7), 2 * 4 * 3 * 5 * 7),
        ("addmm", lambda: F.linear(ones(3, 5), ones(7, 5), ones(7)), 2 * 3 * 5 * 7),
        ("addmm_", lambda: ones(3, 7).addmm_(ones(3, 5), ones(5, 7)), 2 * 3 * 5 * 7),
        ("baddbmm", lambda: torch.baddbmm(ones(4, 3, 7), ones(4, 3, 5), ones(4, 5, 7)), 2 * 4 * 3 * 5 * 7),
        ("mv", lambda: torch.mv(ones(3, 5), ones(5)), 2 * 3 * 5),
        ("addmv", lambda: torch.addmv(ones(3), ones(3, 5), ones(5)), 2 * 3 * 5),
        ("dot", lambda: torch.dot(ones(5), ones(5)), 2 * 5),
        ("convolution", lambda: F.conv1d(ones(2, 8, 20), ones(12, 8, 3)), 2 * 2 * 12 * 18 * 8 * 3),
        ("_int_mm", lambda: torch._int_mm(ones(32, 16, dtype=BYTE), ones(16, 8, dtype=BYTE)), 2 * 32 * 16 * 8),
    ],
)
def test_a_product_is_two_flops_per_multiplication(name: str, run: Callable[[], Any], flops: int) -> None:
    assert counted(run) == ({f"aten::{name}": flops}, set())


def test_a_product_into_another_dtype_has_the_formula_of_the_product() -> None:
    left, right = torch.ones(3, 5, device="meta", dtype=BFLOAT16), torch.ones(5, 7, device="meta", dtype=BFLOAT16)
    onto = torch.ones(3, 7, device="meta")

    def run() -> None:
        torch.mm(left, right, out_dtype=torch.float32)
        torch.addmm(onto, left, right, out_dtype=torch.float32)
        torch.bmm(left[None], right[None], out_dtype=torch.float32)

    assert counted(run)[0] == {"aten::mm": 210, "aten::addmm": 210, "aten::bmm": 210}


def test_products_that_nothing_is_learnt_from_are_counted_too() -> None:
    def run() -> None:
        with torch.inference_mode():
            ones(2, 3, 5) @ ones(5, 7)
            F.linear(ones(2, 3, 5), ones(7, 5))

    assert counted(run)[0] == {"aten::matmul": 2 * 2 * 3 * 5 * 7, "aten::linear": 2 * 2 * 3 * 5 * 7}


@pytest.mark.parametrize(
    ("left", "right", "ends", "flops"),
    [
        ((24, 16), (3, 16, 48), [4, 4, 24], 2 * 24 * 16 * 48),  # every row passes through one of three matrices
        ((3, 24, 16), (16, 48), [8, 16, 48], 2 * 24 * 16 * 48),  # every column comes from one of three
        ((24, 32), (32, 48), [8, 8, 32], 2 * 24 * 32 * 48),  # every row-column pair is summed over in one of three
        ((3, 24, 16), (3, 16, 48), None, 2 * 3 * 24 * 16 * 48),
    ],
)
def test_a_grouped_product_costs_what_its_parts_do(left: Any, right: Any, ends: Any, flops: int) -> None:
    factors = ones(*left, dtype=BFLOAT16), by_columns(*right, dtype=BFLOAT16)
    offsets = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    assert counted(lambda: F.grouped_mm(*factors, offs=offsets))[0] == {"aten::_grouped_mm": flops}


def test_a_grouped_product_one_group_after_the_other_costs_the_same_forward_and_twice_as_much_backward() -> None:
    from transformers.integrations import moe  # noqa: F401  it defines the operator

    tokens, weights = ones(24, 16).requires_grad_(), ones(3, 16, 48).requires_grad_()
    ends = torch.tensor([4, 4, 24], dtype=torch.int32)
    found, listed = counted(lambda: torch.ops.transformers.grouped_mm_fallback(tokens, weights, ends).sum().backward())
    assert found == {
        "transformers::grouped_mm_fallback": 2 * 24 * 16 * 48,
        "transformers::grouped_mm_fallback_backward": 2 * 2 * 24 * 16 * 48,
    }
    assert listed == set()


def test_a_scaled_product_is_a_product_and_four_bits_are_two_in_a_byte() -> None:
    left, right = ones(16, 32).to(torch.float8_e4m3fn), by_columns(32, 48, dtype=torch.float8_e4m3fn)
    scale, tensorwise = torch.ones(()), F.ScalingType.TensorWise

    def run() -> None:
        torch._scaled_mm(left, right, scale, scale, out_dtype=BFLOAT16)
        F.scaled_mm(left, right, scale, tensorwise, scale, tensorwise, output_dtype=BFLOAT16)

    assert counted(run)[0] == {"aten::_scaled_mm": 2 * 16 * 32 * 48, "aten::_scaled_mm_v2": 2 * 16 * 32 * 48}
    # No CPU multiplies 4 bits: what a mode would see of 16 x 32 numbers times 32 x 48.
    packed = ones(16, 16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert flops_of(torch.ops.aten._scaled_mm.default, (packed, packed), {}, ones(16, 48)) == 2 * 16 * 32 * 48


def test_sdpa_on_a_cpu_has_two_products_forward_and_five_backward() -> None:
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    for enable_gqa, key_heads in ((False, HEADS), (True, KEY_HEADS)):
        query = ones(BATCH, HEADS, LENGTH, HEAD_DIM).requires_grad_()
        key, value = (ones(BATCH, key_heads, LENGTH, HEAD_DIM).requires_grad_() for _ in range(2))
        attend = partial(F.scaled_dot_product_attention, query, key, value, is_causal=True, enable_gqa=enable_gqa)
        found, listed = counted(lambda attend=attend: attend().sum().backward())
        assert found == {name: SQUARE * 2 * HEAD_DIM, f"{name}_backward": SQUARE * 5 * HEAD_DIM}
        assert listed == set()


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn", "fused"])
def test_every_kernel_of_sdpa_is_counted_alike_and_as_pytorch_counts_those_that_it_knows(kernel: str) -> None:
    name = f"_scaled_dot_product_{kernel}_attention" + ("_overrideable" if kernel == "fused" else "")
    forward, backward = getattr(torch.ops.aten, name), getattr(torch.ops.aten, f"{name}_backward")
    given = heads("bhsd", "meta")
    made = torch.empty(BATCH, HEADS, LENGTH, VALUE_DIM, device="meta")
    assert flops_of(forward.default, given, {}, made) == FORWARD
    assert flops_of(backward.default, (made, *given), {}, given) == BACKWARD
    if kernel != "fused":
        assert flop_registry[forward](*given, out_val=made) == FORWARD
        assert flop_registry[backward](made, *given, out_val=given) == BACKWARD


def test_pytorchs_own_flash_operator_has_the_sequence_before_the_heads() -> None:
    dense = (None, None, LENGTH, LENGTH, 0.0, True, False)
    flash, efficient = torch.ops.aten._flash_attention_forward, torch.ops.aten._efficient_attention_forward
    assert counted(lambda: flash(*heads("bshd", "meta"), *dense))[0] == {"aten::_flash_attention_forward": FORWARD}
    ends = torch.tensor(ENDS, dtype=torch.int32)
    packed = (*heads("packed"), ends, ends, LENGTH, LENGTH)
    assert flops_of(flash.default, packed, {}, None) == 2 * HEADS * PAIRS * (HEAD_DIM + VALUE_DIM)
    one_row = [tensor[None] for tensor in heads("packed")]  # packed, with a batch of one before
    given = (*one_row, None, ends, ends, LENGTH, LENGTH)
    assert flops_of(efficient.default, given, {}, None) == 2 * HEADS * PAIRS * (HEAD_DIM + VALUE_DIM)
    assert flops_of(efficient.default, (*heads("bshd"), None, None, None), {}, None) == FORWARD


REST = "float dropout_p, float softmax_scale, bool causal, int window_size_left, int window_size_right, float softcap"
SCALARS = (0.0, 1.0, True, -1, -1, 0.0)


@pytest.mark.parametrize(
    ("namespace", "forward", "backward"),
    [
        ("flash_attn", "_flash_attn_forward", "_flash_attn_backward"),
        ("_flash_attn2_9e27194", "fwd", "bwd"),
        ("flash_attn_3", "_flash_attn_forward", "_flash_attn_backward"),
        ("xformers_flash", "flash_fwd", "flash_bwd"),
    ],
)
def test_flash_attention_over_dense_sequences_is_the_full_square_of_each(
    namespace: str, forward: str, backward: str
) -> None:
    query, key, value = heads("bshd")
    gradient = ones(BATCH, LENGTH, HEADS, VALUE_DIM)
    tensors = "Tensor query, Tensor key, Tensor value" if "xformers" in namespace else "Tensor q, Tensor k, Tensor v"
    with (
        operator(namespace, f"{forward}({tensors}, {REST}, Tensor? alibi=None) -> (Tensor, Tensor)") as ahead,
        operator(namespace, f"{backward}(Tensor dout, {tensors}, Tensor out, Tensor lse, {REST}) -> Tensor") as back,
    ):

        def run() -> None:
            ahead(query, key, value, *SCALARS)
            back(gradient, query, key, value, gradient, gradient, *SCALARS)

        found = {f"{namespace}::{forward}": FORWARD, f"{namespace}::{backward}": BACKWARD}
        assert counted(run) == (found, set())


@pytest.mark.parametrize(
    ("namespace", "forward", "backward"),
    [
        ("flash_attn", "_flash_attn_varlen_forward", "_flash_attn_varlen_backward"),
        ("_flash_attn2_9e27194", "varlen_fwd", "varlen_bwd"),
        ("flash_attn_3", "_flash_attn_forward", "_flash_attn_backward"),
        ("torch_attn", "_varlen_attn", "_varlen_attn_backward"),
    ],
)
def test_packed_documents_attend_within_themselves(namespace: str, forward: str, backward: str) -> None:
    packed, ends = heads("packed"), torch.tensor(ENDS, dtype=torch.int32)
    ahead = 2 * HEADS * PAIRS * (HEAD_DIM + VALUE_DIM)
    back = 2 * HEADS * PAIRS * (3 * HEAD_DIM + 2 * VALUE_DIM)
    if namespace == "torch_attn":  # PyTorch's own; it has no kernel for a CPU
        from torch.nn.attention import varlen  # noqa: F401

        assert flops_of(torch.ops.torch_attn._varlen_attn.default, (*packed, ends, ends), {}, None) == ahead
        given = (packed[0], *packed, packed[0], packed[0], ends, ends)
        assert flops_of(torch.ops.torch_attn._varlen_attn_backward.default, given, {}, None) == back
        return
    bounds = f"Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, int max_seqlen_q, int max_seqlen_k, {REST}"
    tensors = "Tensor q, Tensor k, Tensor v"
    rest = (ends, ends, LENGTH, LENGTH, *SCALARS)
    with (
        operator(namespace, f"{forward}({tensors}, {bounds}) -> (Tensor, Tensor)") as first,
        operator(namespace, f"{backward}(Tensor dout, {tensors}, Tensor out, {bounds}) -> Tensor") as second,
    ):
        found, listed = counted(lambda: (first(*packed, *rest), second(packed[0], *packed, packed[0], *rest)))
        assert found == {f"{namespace}::{forward}": ahead, f"{namespace}::{backward}": back}
        assert listed == set()
        # Lengths that can't be read are not guessed: the call is listed instead.
        unknown = (*packed, ends.to("meta"), ends.to("meta"), LENGTH, LENGTH, *SCALARS)
        assert flops_of(first.default, unknown, {}, None) is None
        assert may_multiply_matrices(first.default, unknown, {})


def test_one_packed_document_is_as_much_as_one_that_is_not_packed() -> None:
    query, key, value = (tensor[:1] for tensor in heads("bshd"))
    flash = torch.ops.aten._flash_attention_forward.default
    ends = torch.tensor([0, LENGTH], dtype=torch.int32)
    alone = flops_of(flash, (query, key, value, None, None), {}, None)
    assert flops_of(flash, (query[0], key[0], value[0], ends, ends), {}, None) == alone == FORWARD // BATCH


def test_flex_attention_is_seen_whole_and_counted_over_the_full_square(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import flex_attention as flex

    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # no compiling under a dispatch mode
    given = [ones(BATCH, number, LENGTH, HEAD_DIM) for number in (HEADS, KEY_HEADS, KEY_HEADS)]
    found, listed = counted(lambda: flex.flex_attention(*given, enable_gqa=True))
    assert found == {"higher_order::flex_attention": SQUARE * 2 * HEAD_DIM}
    assert listed == set()
    # A CPU has no backward pass of it: what a mode would see.
    backward = torch.ops.higher_order.flex_attention_backward
    assert flops_of(backward, (*given, given[0]), {}, given) == SQUARE * 5 * HEAD_DIM


def test_a_four_bit_layer_is_one_product_forward_and_one_backward() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 96, bias=False, quant_type="nf4", compute_dtype=BFLOAT16).to("cpu")
    hidden = ones(2, 8, 64, dtype=BFLOAT16).requires_grad_()
    found, listed = counted(lambda: layer(hidden).sum().backward())
    assert sum(found.values()) == 2 * (2 * 16 * 64 * 96)
    assert found["aten::mm"] == 2 * 16 * 64 * 96  # the input's gradient, by the dequantised weights
    assert listed == set()


def test_an_eight_bit_product_has_its_columns_with_outliers_twice() -> None:
    pytest.importorskip("bitsandbytes")
    hidden, weights = ones(16, 64, dtype=torch.float16), ones(96, 64, dtype=BYTE)
    rows, columns, outliers = ones(16), ones(96), torch.tensor([3, 7])
    whole = (hidden, hidden.to(BYTE), weights, rows, columns)
    eight = torch.ops.bitsandbytes
    assert counted(lambda: eight.int8_scaled_mm(whole[1], weights, rows, columns))[0] == {
        "bitsandbytes::int8_scaled_mm": 2 * 16 * 64 * 96
    }
    assert counted(lambda: eight.int8_mixed_scaled_mm(*whole, outliers))[0] == {
        "bitsandbytes::int8_mixed_scaled_mm": 2 * 16 * (64 + 2) * 96
    }
    assert counted(lambda: eight.int8_mixed_scaled_mm(*whole))[0] == {
        "bitsandbytes::int8_mixed_scaled_mm": 2 * 16 * 64 * 96
    }


class Unlaunched:
    """A Triton kernel that isn't launched: no mode sees one, and it needs a GPU."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *_, **__: None


@pytest.mark.parametrize(("trained", "products"), [(True, 3), (False, 2)])
def test_ligers_fused_loss_makes_its_products_in_the_open(
    monkeypatch: pytest.MonkeyPatch, trained: bool, products: int
) -> None:
    """Logits, the hidden states' gradient, and that of the weights where they are trained: all in the forward pass."""
    fused = pytest.importorskip("liger_kernel.ops.fused_linear_cross_entropy")
    monkeypatch.setattr(fused, "liger_cross_entropy_kernel", Unlaunched())
    hidden, weights = ones(24, 8).requires_grad_(), ones(40, 8).requires_grad_(trained)
    labels = torch.zeros(24, dtype=torch.long)

    def run() -> None:  # three chunks of eight positions
        fused.LigerFusedLinearCrossEntropyFunction.apply(hidden, weights, labels)[0].backward()

    assert counted(run) == ({"aten::mm": products * 2 * 24 * 8 * 40}, set())


@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
@pytest.mark.parametrize("mode", ["full", "lora2"])
def test_a_real_training_step_is_what_was_counted_without_running_it(
    small: dict[str, Any], modes: dict[str, Mode], mode: str, recomputation: str
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**small), attn_implementation="sdpa")
    if mode != "full":
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"]))
    if recomputation != "none":
        model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
        model.enable_input_require_grads()
    ids = torch.randint(1, 300, (3, 20))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        model.train()(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    found, listed = counted(step)
    expected = count(
        small, modes[mode], recomputation=recomputation, attention="sdpa", batch_size=3, sequence_length=20
    )
    assert sum(found.values()) == expected.hardware_flops
    assert listed == set()
