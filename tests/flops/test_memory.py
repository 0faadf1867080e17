"""Expected memory against lists written by hand, published figures, and what PyTorch's allocator gives a real step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import architecture_of
from peft import LoraConfig, get_peft_model
from trainers.packed import pack
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.optimization import Adafactor

from mfubench.config import Mode
from mfubench.flops.memory import MemoryEstimate, estimate, fits

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FULL = Mode(name="full")
LORA = Mode(name="lora", rank=8, alpha=16, dropout=0.05, target_modules=TARGETS)
QLORA = replace(LORA, name="qlora", quantization="nf4", double_quantization=True)
SMALL = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
# By hand: two embeddings of 1024 x 128; per block q and o of 128 x 128, k and v of 64 x 128, three of 352 x 128 and two
# norms of 128; a last norm.
SMALL_PARAMETERS = 2 * 131072 + 4 * (2 * 16384 + 2 * 8192 + 3 * 45056 + 256) + 128
# Rank 8: 8 x (in + out) beside each of the seven.
LORA_PARAMETERS = 4 * 8 * (2 * (128 + 128) + 2 * (128 + 64) + 3 * (128 + 352))
ASKED: dict[str, Any] = {
    "precision": "bf16",
    "recomputation": "none",
    "attention": "sdpa",
    "batch_size": 2,
    "sequence_length": 256,
    "optimizer": "adamw_torch_fused",
}


def small(mode: Mode = FULL, **changes: Any) -> MemoryEstimate:
    return estimate({"model_type": "llama", **SMALL}, mode, **(ASKED | changes))


def llama_8b(mode: Mode, **changes: Any) -> MemoryEstimate:
    return estimate(architecture_of("llama-3.1-8b"), mode, **(ASKED | {"sequence_length": 2048} | changes))


@pytest.mark.parametrize(
    ("precision", "weight", "gradient", "moments"), [("bf16", 4, 4, 8), ("bf16_pure", 2, 2, 4), ("fp32", 4, 4, 8)]
)
def test_full_training_holds_so_many_bytes_a_parameter(
    precision: str, weight: int, gradient: int, moments: int
) -> None:
    memory = small(precision=precision)
    parts = (memory.weights, memory.gradients, memory.optimizer)
    assert parts == tuple(size * SMALL_PARAMETERS for size in (weight, gradient, moments))
    assert memory.total == sum(parts) + memory.activations
    assert memory.communication == 0


@pytest.mark.parametrize(("precision", "frozen", "trained"), [("bf16", 2, 4), ("bf16_pure", 2, 2), ("fp32", 4, 4)])
def test_lora_holds_frozen_weights_and_trains_few(precision: str, frozen: int, trained: int) -> None:
    memory = small(LORA, precision=precision)
    assert memory.weights == frozen * SMALL_PARAMETERS + trained * LORA_PARAMETERS
    assert (memory.gradients, memory.optimizer) == (trained * LORA_PARAMETERS, 2 * trained * LORA_PARAMETERS)


@pytest.mark.parametrize(("double", "scale_bits"), [(False, 32), (True, 8)])
def test_weights_in_4_bits_have_a_scale_per_64(double: bool, scale_bits: int) -> None:
    memory = small(replace(QLORA, double_quantization=double))
    linear = 4 * (2 * 16384 + 2 * 8192 + 3 * 45056)
    exact = linear * 4 // 8 + linear // 64 * scale_bits // 8
    # Two scales of 4 bytes for each 256 scales or part of it, with double quantisation, in each of 7 layers of 4 blocks.
    per_layer = 4 * sum(-(-elements // 64 // 256) + 1 for elements in (16384, 16384, 8192, 8192, 45056, 45056, 45056))
    others = 2 * (SMALL_PARAMETERS - linear) + 4 * LORA_PARAMETERS
    assert memory.weights == exact + others + (4 * per_layer if double else 0)
    lora = small(LORA)
    assert (memory.gradients, memory.optimizer) == (lora.gradients, lora.optimizer)


def test_the_activations_of_one_block_are_the_list_written_by_hand() -> None:
    positions, channels, inner, heads, vocabulary = 2 * 32, 32, 96, 4, 4096
    saved = (
        4  # the block's input, its norm before and after the norm's weight, the sum after attention
        + 4  # query, key, value, attention's output
        + 2  # the second norm before and after its weight
        + 3  # the block's output, the last norm before and after its weight
    ) * channels
    saved += 4 * inner  # gate, its silu, up, their product
    saved += 3  # of each norm, one over the root mean square
    saved += heads  # of each row of attention, the logarithm of its sum
    rotation = 4 * 2 * 32 * (channels // heads)  # cosine and sine of 32 positions
    # The logits dwarf the rest: the loss's backward pass holds log-probabilities, their gradient and the logits'.
    loss = 4 * 3 * positions * vocabulary
    memory = estimate(
        {
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": channels,
            "intermediate_size": inner,
            "num_hidden_layers": 1,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        },
        FULL,
        **(ASKED | {"precision": "fp32", "sequence_length": 32}),
    )
    token_ids = 8 * positions
    scalars = memory.activations + memory.gradients - (4 * positions * saved + rotation + token_ids + loss)
    assert 0 <= scalars <= 16


@pytest.mark.sample(4)
@pytest.mark.parametrize("recomputation", ["none", "reentrant", "non_reentrant"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_pure"])
@pytest.mark.parametrize("mode", [FULL, LORA, QLORA], ids=["full", "lora", "qlora"])
def test_a_real_step_allocates_what_was_expected(mode: Mode, precision: str, recomputation: str) -> None:
    memory = small(mode, precision=precision, recomputation=recomputation, device="cpu")
    held, peak = real_step(mode, precision, recomputation)
    assert held == memory.weights + memory.optimizer
    assert peak == pytest.approx(memory.gradients + memory.activations, rel=0.02)


def test_a_weight_in_4_bits_is_whole_while_it_is_multiplied() -> None:
    few: dict[str, Any] = {"precision": "fp32", "batch_size": 1, "sequence_length": 8}
    memory, lora = small(QLORA, device="cpu", **few), small(LORA, device="cpu", **few)
    _, peak = real_step(QLORA, recomputation="none", **few)
    assert peak == pytest.approx(memory.gradients + memory.activations, rel=0.005)
    # So few positions leave little but one of the largest weights and the gradients.
    assert memory.activations > lora.activations + 4 * 45056 / 2


@pytest.mark.parametrize("recomputation", ["none", "reentrant"])
def test_a_real_step_of_two_micro_batches_with_eager_attention_does_too(recomputation: str) -> None:
    settings: dict[str, Any] = {"attention": "eager", "gradient_accumulation_steps": 2}
    memory = small(FULL, precision="bf16", recomputation=recomputation, device="cpu", **settings)
    _, peak = real_step(FULL, "bf16", recomputation, attention="eager", micro_batches=2)
    assert peak == pytest.approx(memory.gradients + memory.activations, rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "bf16_pure"])
@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd", "adafactor"])
def test_a_real_optimizer_holds_and_passes_what_was_expected(optimizer: str, precision: str) -> None:
    memory = small(precision=precision, optimizer=optimizer, device="cpu", batch_size=1, sequence_length=8)
    held, peak = real_step(FULL, precision, "none", optimizer=optimizer, batch_size=1, sequence_length=8)
    assert held == memory.weights + memory.optimizer
    assert peak == pytest.approx(memory.gradients + memory.activations, rel=0.03)


def test_the_8b_model_trained_in_bf16_alone_takes_64_gb_before_activations() -> None:
    memory = llama_8b(FULL, precision="bf16_pure", recomputation="reentrant")
    assert memory.weights + memory.gradients + memory.optimizer == 4 * 2 * 8_030_261_248
    assert not fits(memory, 64_000_000_000)
    assert fits(memory, 80 * 2**30)
    assert not fits(llama_8b(FULL, precision="bf16", recomputation="reentrant"), 80 * 2**30)


@pytest.mark.parametrize(
    ("parallelism", "published_gb"), [("zero0", 120.0), ("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)]
)
def test_zero_shards_as_published(parallelism: str, published_gb: float) -> None:
    # Rajbhandari et al. 2020, figure 1: 7.5e9 parameters on 64 devices, 16 bytes a parameter before sharding.
    memory = small(parallelism=parallelism, num_devices=64)
    bytes_each = (memory.weights + memory.gradients + memory.optimizer) / SMALL_PARAMETERS
    assert bytes_each * 7.5 == pytest.approx(published_gb, abs=0.05)


def test_zero_2_takes_two_buckets_whatever_is_trained() -> None:
    for mode in (FULL, LORA):
        assert small(mode, parallelism="zero2", num_devices=2).communication == 2 * 2 * 500_000_000
    memory = small(parallelism="zero2", num_devices=2, reduce_bucket_size=1000, overlap_comm=False)
    assert memory.communication == 2 * 1000
    assert memory.activations > 0


def test_ddp_keeps_buckets_as_large_as_the_gradients() -> None:
    alone, together = small(), small(parallelism="ddp", num_devices=2)
    assert together.communication == together.gradients == alone.gradients
    assert together.total == alone.total + alone.gradients


def test_fsdp_shards_everything_and_gathers_two_blocks() -> None:
    alone, sharded = small(), small(parallelism="fsdp2", num_devices=4)
    assert sharded.weights == alone.weights // 4
    assert (sharded.gradients, sharded.optimizer) == (alone.gradients // 4, alone.optimizer // 4)
    block = 2 * 16384 + 2 * 8192 + 3 * 45056 + 256
    outside = SMALL_PARAMETERS - 4 * block
    assert sharded.communication == 2 * (3 * block + 2 * outside)


def test_the_fused_loss_never_holds_the_logits() -> None:
    # LoRA on 2 x 2048 positions: the logits' backward pass holds 3 x 4096 x 128256 floats, 6.3 GB.
    whole = llama_8b(LORA, recomputation="reentrant")
    fused = llama_8b(LORA, recomputation="reentrant", fused_linear_cross_entropy=True)
    assert whole.activations > 3 * 4 * 4096 * 128_256
    assert fused.activations < whole.activations / 2


def test_recomputation_keeps_one_input_a_block() -> None:
    # Four blocks more: four inputs of [4, 256, 128] in bf16, and their LoRA gradients, no more.
    def of_blocks(count: int) -> MemoryEstimate:
        architecture = {"model_type": "llama", **SMALL, "num_hidden_layers": count}
        return estimate(architecture, LORA, **(ASKED | {"recomputation": "reentrant", "batch_size": 4}))

    few, many, more = of_blocks(4), of_blocks(8), of_blocks(12)
    inputs = 4 * 4 * 256 * 128 * 2
    assert many.activations + many.gradients - few.activations - few.gradients == pytest.approx(inputs, rel=0.2)
    assert more.activations - many.activations == many.activations - few.activations


def test_a_cuda_device_keeps_a_byte_of_a_dropout_mask_where_a_cpu_keeps_a_number() -> None:
    # In each of 4 blocks, 512 positions of seven layers' inputs: six of 128 channels and one of 352; 4 bytes or 1.
    on_cpu, on_cuda = small(LORA, precision="fp32", device="cpu"), small(LORA, precision="fp32", device="cuda")
    inputs = 4 * 512 * (6 * 128 + 352)
    assert on_cpu.activations - on_cuda.activations == pytest.approx(3 * inputs, rel=0.1)


def test_expecting_leaves_no_trace() -> None:
    before = set(ALL_ATTENTION_FUNCTIONS.keys())
    state = torch.get_rng_state()
    first = small(LORA, recomputation="non_reentrant")
    assert small(LORA, recomputation="non_reentrant") == first
    assert set(ALL_ATTENTION_FUNCTIONS.keys()) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"parallelism": "zero4"}, "parallelism=zero4; choose one of single, ddp, zero0"),
        ({"optimizer": "lion"}, "optimizer=lion; choose one of adamw_torch_fused"),
        ({"precision": "auto"}, "precision=auto; choose one of bf16, bf16_pure, fp32"),
        ({"sequence_length": 1024}, "beyond the 512 positions"),
    ],
)
def test_what_nothing_is_known_of_is_not_guessed(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small(**wrong)


def real_step(
    mode: Mode,
    precision: str,
    recomputation: str,
    *,
    attention: str = "sdpa",
    optimizer: str = "adamw_torch_fused",
    batch_size: int = 2,
    sequence_length: int = 256,
    micro_batches: int = 1,
) -> tuple[int, int]:
    """Bytes of weights and optimizer states between two steps, and the peak beyond them that the allocator gave."""
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SMALL, attn_implementation=attention, use_cache=False))
    if precision == "bf16_pure" or (precision == "bf16" and mode.has_adapters):
        model = model.to(torch.bfloat16)
    if mode.four_bit:
        pack(model, double=bool(mode.double_quantization))
    if mode.has_adapters:
        assert mode.rank and mode.dropout
        wanted = LoraConfig(r=mode.rank, lora_dropout=mode.dropout, target_modules=TARGETS, task_type="CAUSAL_LM")
        model = get_peft_model(model, wanted, autocast_adapter_dtype=precision != "bf16_pure")
    if recomputation != "none":
        model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
        model.enable_input_require_grads()
    trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    steps: torch.optim.Optimizer = {
        "adamw_torch_fused": lambda: torch.optim.AdamW(trained, fused=True),
        "adamw_torch": lambda: torch.optim.AdamW(trained),
        "sgd": lambda: torch.optim.SGD(trained),
        "adafactor": lambda: Adafactor(trained, lr=1e-4, scale_parameter=False, relative_step=False),
    }[optimizer]()
    ids = torch.randint(SMALL["vocab_size"], (batch_size, sequence_length))

    def step() -> None:
        for _ in range(micro_batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
        steps.step()
        steps.zero_grad()

    step()
    states = [v for state in steps.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]
    scales = [tensor for parameter in model.parameters() for tensor in scales_of(parameter)]
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *scales, *states))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert math.isclose(live, 0, abs_tol=4096)
    return held, peak


def scales_of(parameter: Any) -> list[torch.Tensor]:
    """What is held beside a packed weight to bring it back, but for the tables that all weights share."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return []
    return [state.absmax, *([state.state2.absmax, state.offset] if state.nested else [])]


def test_what_does_not_run_without_data_is_no_estimate() -> None:
    """Products of several experts at once exist on the meta device in bf16 only."""
    with pytest.raises(ValueError, match="the memory of a step can't be estimated: Expected inputs of BF16"):
        estimate(architecture_of("mixtral-8x7b"), FULL, **(ASKED | {"precision": "fp32"}))
