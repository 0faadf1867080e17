"""FLOPs of one operator call, from the arguments of a TorchDispatchMode.

A multiplication and an addition are 2 FLOPs. Attention is counted over the full square of each sequence, masked or not,
with 2 products in the forward pass of a fused kernel and 5 in its backward pass, which recomputes the scores: 2.5 times
as many FLOPs, as in PyTorch's own counter. Packed sequences count one by one.

A mode sees neither a kernel called around PyTorch's dispatcher (Triton's, or one bound by pybind) nor the inside of
another operator. It needs `supports_higher_order_operators = True` to see flex attention.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.utils.flop_counter
from torch.utils._pytree import tree_flatten, tree_map

# Products, by the place of their first factor among the arguments: its last dimension is summed over.
FIRST_FACTOR = {
    0: re.compile(
        r"aten::(mm|bmm|mv|dot|vdot|matmul|linear|_int_mm|_(scaled|grouped|scaled_grouped)_mm(_v2)?"
        r"|_weight_int[48]pack_mm(_for_cpu)?|_dyn_quant_matmul_4bit)"
        r"|bitsandbytes::(gemm_4bit|gemv_4bit|int8_linear_matmul|int8_scaled_mm|int8_mixed_scaled_mm)"
        r"|transformers::grouped_mm_fallback"
    ),
    1: re.compile(r"aten::(addmm|baddbmm|addmv)_?|aten::_addmm_activation"),
    3: re.compile(r"transformers::grouped_mm_fallback_backward"),
}
# Fused attention over [batch, heads, sequence, channels].
HEADS_FIRST = re.compile(r"aten::_?scaled_dot_product_\w+|higher_order::flex_attention(_backward)?")
# Over [batch, sequence, heads, channels], or [positions, heads, channels] packed; FlashAttention's operators under the
# names of all its versions, their builds on the hub and xformers.
SEQUENCE_FIRST = re.compile(
    r"aten::_(flash|efficient)_attention_(forward|backward)"
    r"|torch_attn::_varlen_attn(_backward)?"
    r"|(\w*flash_?attn\w*|xformers_flash3?)::(mha_|flash_|_flash_attn_)?(varlen_)?(fwd|bwd|forward|backward)"
)
BACKWARD_NAMES = re.compile(r"backward|bwd")
# Begins of the packed sequences and the end of the last one; for queries and for keys.
PACKED = (("cu_seqlens_q", "cum_seq_q", "cu_seq_q"), ("cu_seqlens_k", "cum_seq_k", "cu_seq_k"))
UNEQUAL_SIZES = (29, 23, 19, 17, 13, 11, 7, 5)  # of a tensor of up to 8 dimensions, the last ones
TWO_IN_A_BYTE = getattr(torch, "float4_e2m1fn_x2", None)

# Operators on several tensors that multiply no matrices: they move, compare, normalise, update or communicate.
HARMLESS_OPERATORS = re.compile(
    r"aten::(cat|_chunk_cat|stack|block_diag|copy_?|set_|equal|split_with_sizes_copy|embedding_renorm_"
    r"|(_unsafe_|_)?index_(put|put_impl|add|copy)_?|(masked_)?scatter(_add|_reduce)?_?|\w+_scatter"
    r"|native_\w+_norm(_backward)?|_weight_norm_interface(_backward)?|_foreach_(?!mm)\w+|_fused_\w+|_amp_\w+"
    r"|_(log_)?softmax_backward_data|(nll|mse)_loss(_forward|_backward)?|binary_cross_entropy_with_logits)"
    r"|bitsandbytes::((de)?quantize_\w+|int8_\w+_(de)?quant|int8_mm_dequant|optimizer_update_\w+)"
    r"|(c10d|_?c10d_functional|fsdp)::\w+"
)


def name_of(func: Any) -> str:
    """An operator's name with its namespace, without its overload: aten::mm."""
    schema = getattr(func, "_schema", None)
    return f"higher_order::{func.name()}" if schema is None else schema.name


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int | None:
    """FLOPs of a call that has returned `out`; None without a formula.

    `args` are the dispatcher's: in the schema's order, without trailing ones left at their defaults. Packed sequences whose
    lengths can't be read, as on the meta device, have no formula; reading them waits for their device. Operators unknown
    here are looked up among PyTorch's formulas: convolutions, and those registered by others.
    """
    name = name_of(func)
    first_factor = _first_factor(name)
    if first_factor is not None:
        return _product_flops(name, args, args[first_factor], out)
    if is_attention(name):
        return _attention_flops(name, _named(func, args, kwargs))
    if name in ("aten::convolution", "aten::convolution_backward"):
        return _convolution_flops(name, args, out)
    registered = getattr(torch.utils.flop_counter, "flop_registry", {}).get(getattr(func, "_overloadpacket", func))
    return None if registered is None else registered(*args, **kwargs, out_val=out)


def may_multiply_matrices(func: Any, args: Any, kwargs: Any) -> bool:
    """True if an operator without a formula could hide a product, so that it must be listed.

    A product needs two factors, one of them a matrix, of numbers: floating point or 8 bits (integers of more bits are
    indices, booleans are masks). PyTorch's own operators qualify with two such tensors, unless their work is in proportion
    to the elements. Operators from elsewhere (custom kernels) qualify with one matrix, since a factor may hide in a packed
    argument. The few that are known to be harmless never qualify.
    """
    name = name_of(func)
    from_pytorch = name.startswith(("aten::", "prims::", "prim::"))
    if _is_harmless(name) or (from_pytorch and torch.Tag.pointwise in func.tags):
        return False
    dimensions = [tensor.dim() for tensor in _possible_factors(args, kwargs)]
    if max(dimensions, default=0) < 2 or len(dimensions) < (2 if from_pytorch else 1):
        return False
    return not (from_pytorch and _works_by_element(func, args, kwargs))


def _works_by_element(func: Any, args: Any, kwargs: Any) -> bool:
    """True if the operator takes tensors of one common shape and returns it, or it without some of its dimensions.

    The operator's own shape rule is tried on the meta device, with sizes that differ from each other. A product refuses
    such factors or makes a dimension of each: [3, 5] and [3, 5] become [3, 3]. Inside a call as inside a count, nothing is
    computed.
    """

    def common(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return torch.empty(UNEQUAL_SIZES[-leaf.dim() :] if leaf.dim() else (), dtype=leaf.dtype, device="meta")

    try:
        out = func(*tree_map(common, args), **tree_map(common, {**kwargs}))
    except (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    results = [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, torch.Tensor)]
    return bool(results) and all(_is_part(result.shape, UNEQUAL_SIZES) for result in results)


def _is_part(shape: Sequence[int], sizes: Sequence[int]) -> bool:
    """True if `shape` has some of `sizes`, in their order, and dimensions of one element besides."""
    remaining = iter(sizes)
    return all(size == 1 or size in remaining for size in shape)


def described(func: Any, args: Any, kwargs: Any) -> str:
    """The operator with the shapes of its first four possible factors: aten::foo [2, 256, 64] x [64, 64]."""
    shapes = [str(list(tensor.shape)) for tensor in _possible_factors(args, kwargs)]
    return f"{name_of(func)} {' x '.join(shapes[:4])}{' x ...' if len(shapes) > 4 else ''}"


def _possible_factors(args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that can be factors: of one dimension or more, of numbers that aren't indices."""
    leaves = tree_flatten((args, kwargs))[0]
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim()]
    return [tensor for tensor in tensors if tensor.is_floating_point() or tensor.dtype in (torch.uint8, torch.int8)]


def _named(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    schema = getattr(func, "_schema", None)
    names = ("query", "key", "value") if schema is None else [argument.name for argument in schema.arguments]
    return {**dict(zip(names, args)), **kwargs}


@lru_cache(maxsize=None)
def _first_factor(name: str) -> int | None:
    return next((place for place, pattern in FIRST_FACTOR.items() if pattern.fullmatch(name)), None)


@lru_cache(maxsize=None)
def is_attention(name: str) -> bool:
    """True for an operator that attends in one fused kernel, forward or backward."""
    return any(pattern.fullmatch(name) for pattern in (HEADS_FIRST, SEQUENCE_FIRST))


@lru_cache(maxsize=None)
def _is_harmless(name: str) -> bool:
    return HARMLESS_OPERATORS.fullmatch(name) is not None


def _product_flops(name: str, args: Any, factor: torch.Tensor, out: Any) -> int | None:
    """2 x elements of the result x elements summed over for each of them."""
    result = out[0] if isinstance(out, (tuple, list)) and out else out
    if not isinstance(result, torch.Tensor):  # the result is written into an argument
        return None
    elements, summed = result.numel(), factor.shape[-1]
    if factor.dtype == TWO_IN_A_BYTE:
        summed *= 2
    if "grouped_mm" in name and result.dim() > factor.dim():  # the groups share the summed dimension
        elements //= max(result.shape[0], 1)
    if name == "bitsandbytes::int8_mixed_scaled_mm":  # columns with outliers are multiplied again, in more bits
        summed += sum(columns.numel() for columns in args[5:6] if columns is not None)
    if name == "transformers::grouped_mm_fallback_backward":  # the same again for the other gradient
        summed *= 2
    return 2 * elements * summed


def _convolution_flops(name: str, args: Any, out: Any) -> int:
    """2 x weights x positions for each result; positions that only padding makes, as a causal convolution's, are none.

    PyTorch's own formula makes the weights' gradient of a depthwise convolution too large by as many times as it has
    channels.
    """
    backward = name.endswith("backward")
    result, given, weights = (args[0], args[1], args[2]) if backward else (out, args[0], args[1])
    positions = min(tensor.numel() // tensor.shape[1] for tensor in (result, given))
    return 2 * weights.numel() * positions * (sum(args[10][:2]) if backward else 1)


def _attention_flops(name: str, named: dict[str, Any]) -> int | None:
    """2 FLOPs per query head, pair of positions, channel and product; grouped keys serve several query heads."""
    query, key, value = (named.get(name[0], named.get(name)) for name in ("query", "key", "value"))
    if query is None or key is None or value is None:
        return None
    pairs = _pairs(name, named, query, key)
    if pairs is None:
        return None
    key_products, value_products = (3, 2) if BACKWARD_NAMES.search(name) else (1, 1)
    return 2 * pairs * (key_products * query.shape[-1] + value_products * value.shape[-1])


def _pairs(name: str, named: dict[str, Any], query: torch.Tensor, key: torch.Tensor) -> int | None:
    """Pairs of a query and a key of the same sequence, in all query heads; None if the sequences aren't known."""
    queries = query.numel() // query.shape[-1]
    if HEADS_FIRST.fullmatch(name):
        return queries * key.shape[-2]
    bounds = [next((named[word] for word in words if named.get(word) is not None), None) for words in PACKED]
    if query.dim() == 4 and all(bound is None or not bound.numel() for bound in bounds):
        return queries * key.shape[-3]
    lengths = [bound.diff().tolist() for bound in bounds if bound is not None and bound.device.type != "meta"]
    if len(lengths) < 2:
        return None
    return query.shape[-2] * sum(of_queries * of_keys for of_queries, of_keys in zip(*lengths))
