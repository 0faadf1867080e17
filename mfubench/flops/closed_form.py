"""A second count, by formulas instead of a trace. In: architecture, mode and shape. Out: a ClosedForm, or None. Pure.

It shares no code with the trace: what it knows of a model is written down here, so that the two agree only where both
are right. It knows decoder-only transformers: blocks of attention and a gated MLP, or experts, between an embedding and
lm_head. What it is built of:

- A product of [positions, inputs] with [inputs, outputs] is 2 x inputs x outputs FLOPs a position; forward once, backward
  once for the weights' gradient and once for the input's (Kaplan et al. 2020, arXiv 2001.08361: 2N and 4N).
- Under LoRA (Hu et al. 2021, arXiv 2106.09685) a frozen layer makes no gradient of its weights, and one of its input only
  where something in front of it is trained.
- Attention is 2 products forward, scores and output, of 2 x heads x head_dim FLOPs per pair of positions, and 4 backward;
  over the square of the sequence (PaLM, Chowdhery et al. 2022, appendix B) or the visible pairs (Megatron-LM's count). A
  fused kernel recomputes the scores in its backward pass: 5 products (Dao 2023, arXiv 2307.08691, section 4.1).
- A token passes through the router and its own experts (Jiang et al. 2024, arXiv 2401.04088, section 2.1).
- Checkpointing repeats each block's forward pass (Chen et al. 2016, arXiv 1604.06174); the non-reentrant kind stops at the
  last tensor that the backward pass needs, which is read by the block's last product (torch.utils.checkpoint, early stop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mfubench.config import Mode

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
QWEN_WINDOW = {"use_sliding_window": False, "sliding_window": 4096}
# The words of config.json that each family's model reads, with what each is where it isn't given; transformers ignores the
# others. From the families' configuration_*.py and modeling_*.py in transformers 5.
DEFAULTS: Mapping[str, tuple[tuple[int | None, ...], Mapping[str, Any]]] = {
    "llama": ((32000, 4096, 11008, 32, 32, None, None), {"attention_bias": False, "mlp_bias": False}),
    "mistral": ((32000, 4096, 14336, 32, 32, 8, None), {"sliding_window": 4096}),
    "qwen2": (
        (151936, 4096, 22016, 32, 32, 32, None),
        {**QWEN_WINDOW, "max_window_layers": 28, "layer_types": None},
    ),
    "qwen3": (
        (151936, 4096, 22016, 32, 32, 32, 128),
        {**QWEN_WINDOW, "max_window_layers": 28, "layer_types": None, "attention_bias": False},
    ),
    "gemma2": (
        (256000, 2304, 9216, 26, 8, 4, 256),
        {"sliding_window": 4096, "layer_types": None, "attention_bias": False, "use_bidirectional_attention": None},
    ),
    "mixtral": (
        (32000, 4096, 14336, 32, 32, 8, None),
        {"sliding_window": None, "num_experts": 8, "num_experts_per_tok": 2},
    ),
    "qwen3_moe": (
        (151936, 2048, 6144, 24, 32, 4, None),
        {**QWEN_WINDOW, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
        | {"decoder_sparse_step": 1, "mlp_only_layers": None, "attention_bias": False},
    ),
}


@dataclass(frozen=True)
class ClosedForm:
    """FLOPs of one micro-batch's forward and backward pass on one device, and parameters; the names are FlopCount's."""

    model_flops: int
    model_flops_causal: int
    hardware_flops: int
    hardware_flops_causal: int
    parameters: int
    trainable_parameters: int


@dataclass(frozen=True)
class _Layer:
    """A matrix that every position is multiplied with."""

    inputs: int
    outputs: int
    trained: bool
    rank: int = 0  # of the LoRA matrices beside it; 0: there are none

    @property
    def learns(self) -> bool:
        return self.trained or self.rank > 0

    @property
    def forward(self) -> int:
        return 2 * (self.inputs * self.outputs + self.adapters)

    @property
    def adapters(self) -> int:
        return self.rank * (self.inputs + self.outputs)

    @property
    def last_product(self) -> int:
        """The adapter's second product is made after the layer's own."""
        return 2 * self.outputs * (self.rank or self.inputs)

    def backward(self, reached: bool) -> int:
        """FLOPs of the gradients; `reached`: its input requires one. Between its two matrices an adapter always does."""
        of_weights = 2 * (self.trained * self.inputs * self.outputs + self.adapters)
        of_input = 2 * reached * (self.inputs * self.outputs + self.rank * self.inputs)
        return of_weights + of_input + 2 * self.rank * self.outputs


@dataclass(frozen=True)
class _Block:
    """A block: what its attention and its MLP, or experts, multiply with, in order."""

    queries: _Layer
    keys: _Layer
    values: _Layer
    output: _Layer
    widening: tuple[_Layer, ...]  # gate and up; or the router and the experts' gate and up
    narrowing: _Layer  # down
    ends_in_product: bool  # nothing after it is kept for the backward pass
    channels: int  # of the attention, all heads together
    causal: bool
    window: int | None  # positions that each query sees at most

    @property
    def layers(self) -> tuple[_Layer, ...]:
        return (self.queries, self.keys, self.values, self.output, *self.widening, self.narrowing)


@dataclass(frozen=True)
class _Passage:
    """A micro-batch's way through the model and back: FLOPs of the layers per position, and the attention of each block."""

    flops: int
    gradients: tuple[str, ...]  # of each block's attention: those of queries, keys and values that are made, as "qkv"
    forwards: int  # how often attention goes forward


def closed_form(
    architecture: Mapping[str, Any],
    mode: Mode,
    *,
    recomputation: str,
    attention: str,
    batch_size: int,
    sequence_length: int,
) -> ClosedForm | None:
    """The count of one micro-batch of [batch_size, sequence_length] positions, every label valid, as `count` makes it.

    `architecture`: transformers' config.json by its own keys. `mode`: full or lora, on any linear layers.
    `recomputation`: none | reentrant | non_reentrant. `attention`: sdpa | eager | flash_attention_2.
    None for what has no formula here: another model type or mode, LoRA beside experts. It checks nothing: what `count`
    refuses has no meaning here.
    """
    if architecture.get("model_type") not in DEFAULTS or mode.name not in ("full", "lora"):
        return None
    words = _words(architecture)
    if mode.name == "lora" and _beside_experts(words, mode):
        return None
    blocks = [_block(words, mode, index) for index in range(words["num_hidden_layers"])]
    head = _layer(mode, "lm_head", words["hidden_size"], words["vocab_size"])
    needed = _passage(blocks, head, reached=mode.name == "full")
    executed = needed if recomputation == "none" else _recomputed(blocks, head, recomputation)

    def total(passage: _Passage, backward: Callable[[str], int], pairs: Callable[[_Block], int]) -> int:
        products = (2 * passage.forwards + backward(made) for made in passage.gradients)
        scores = sum(n * 2 * block.channels * pairs(block) for n, block in zip(products, blocks, strict=True))
        return batch_size * (sequence_length * passage.flops + scores)

    def square(_: _Block) -> int:
        return sequence_length**2

    def visible(block: _Block) -> int:
        return _visible_pairs(block, sequence_length)

    def computed(block: _Block) -> int:
        """Eager attention computes every pair; so does SDPA once a window is full, which it is then told by a mask."""
        masked = block.window is not None and sequence_length >= block.window
        return square(block) if attention == "eager" or (attention == "sdpa" and masked) else visible(block)

    kernel = _eager_backward if attention == "eager" else _fused_backward
    adapters = sum(layer.adapters for block in blocks for layer in block.layers) + head.adapters
    parameters = _parameters(words)
    return ClosedForm(
        model_flops=total(needed, _least_backward, square),
        model_flops_causal=total(needed, _least_backward, visible),
        hardware_flops=total(executed, kernel, square),
        hardware_flops_causal=total(executed, kernel, computed),
        parameters=parameters + adapters,
        trainable_parameters=parameters if mode.name == "full" else adapters,
    )


def apart(counted: Any, closed: ClosedForm) -> float:
    """The largest difference from `counted`, a FlopCount or its like, as a fraction of the closed form's figure, of six."""
    return max(abs(getattr(counted, name) - figure) / figure for name, figure in asdict(closed).items())


def _passage(blocks: Iterable[_Block], head: _Layer, reached: bool) -> _Passage:
    """Forward and back once; `reached`: the first block's input requires a gradient."""
    flops, gradients = 0, []
    for block in blocks:
        q, k, v = (reached or layer.learns for layer in (block.queries, block.keys, block.values))
        attended = q or k or v
        halfway = attended or block.output.learns  # the residual that goes past them is reached only where they are
        wide = halfway or any(layer.learns for layer in block.widening)
        flops += sum(layer.forward for layer in block.layers)
        flops += sum(layer.backward(reached) for layer in (block.queries, block.keys, block.values))
        flops += block.output.backward(attended)
        flops += sum(layer.backward(halfway) for layer in block.widening)
        flops += block.narrowing.backward(wide)
        gradients.append("q" * q + "k" * k + "v" * v)
        reached = wide or block.narrowing.learns
    return _Passage(flops + head.forward + head.backward(reached), tuple(gradients), forwards=1)


def _recomputed(blocks: list[_Block], head: _Layer, recomputation: str) -> _Passage:
    """With the blocks' forward pass repeated. Under LoRA, too, the first block's input then requires a gradient.

    Without it reentrant checkpointing would train nothing, so every framework arranges it, for both kinds.
    """
    once = _passage(blocks, head, reached=True)
    again = sum(layer.forward for block in blocks for layer in block.layers)
    if recomputation == "non_reentrant":
        again -= sum(block.narrowing.last_product for block in blocks if block.ends_in_product)
    return _Passage(once.flops + again, once.gradients, forwards=2)


def _least_backward(gradients: str) -> int:
    """Attention's products backward by the PaLM convention: twice the forward pass's."""
    return 4 if gradients else 0


def _fused_backward(gradients: str) -> int:
    """The scores again, then the gradients of scores, queries, keys and values, wanted or not."""
    return 5 if gradients else 0


def _eager_backward(gradients: str) -> int:
    """A product for each gradient that is wanted; queries and keys get theirs by way of the scores'."""
    return len(gradients) + ("q" in gradients or "k" in gradients)


def _visible_pairs(block: _Block, sequence_length: int) -> int:
    """Query i, counted from 1, sees i keys, or as many as the window has: s(s+1)/2, or w(w+1)/2 + (s-w)w beyond it."""
    if not block.causal:
        return sequence_length**2
    seen = min(block.window or sequence_length, sequence_length)
    return seen * (seen + 1) // 2 + (sequence_length - seen) * seen


def _words(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The words that the family reads, all with values, and `family`."""
    family = architecture["model_type"]
    given = dict(architecture)
    if "num_local_experts" in given:  # transformers has one number under both names
        given.setdefault("num_experts", given["num_local_experts"])
    sizes, more = DEFAULTS[family]
    defaults = {**dict(zip(SIZES, sizes, strict=True)), "tie_word_embeddings": family == "gemma2", **more}
    words = {"family": family, **{word: given.get(word, default) for word, default in defaults.items()}}
    heads = words["num_attention_heads"]
    words["num_key_value_heads"] = words["num_key_value_heads"] or heads
    words["head_dim"] = words["head_dim"] or words["hidden_size"] // heads
    return words


def _beside_experts(words: Mapping[str, Any], mode: Mode) -> bool:
    """Whether peft would turn LoRA's targets into parameters of experts, as it does for gate_proj and its like."""
    plain = ("q_proj", "k_proj", "v_proj", "o_proj", "lm_head")
    return "num_experts" in words and any(target.split(".")[-1] not in plain for target in mode.target_modules or [])


def _layer(mode: Mode, name: str, inputs: int, outputs: int) -> _Layer:
    """The linear layer called `name`, with LoRA beside it if it, or the end of its name after a dot, is a target."""
    targets = mode.target_modules or [] if mode.name == "lora" else []
    targeted = any(name == target or name.endswith(f".{target}") for target in targets)
    return _Layer(inputs, outputs, trained=mode.name == "full", rank=(mode.rank or 0) if targeted else 0)


def _block(words: Mapping[str, Any], mode: Mode, index: int) -> _Block:
    hidden, channels = words["hidden_size"], words["num_attention_heads"] * words["head_dim"]
    keys = words["num_key_value_heads"] * words["head_dim"]

    def layer(name: str, inputs: int, outputs: int) -> _Layer:
        return _layer(mode, f"model.layers.{index}.{name}", inputs, outputs)

    if _has_experts(words, index):
        # Experts and router are no linear layers, which LoRA could stand beside; a token's experts are one wide one to it.
        wide, trained = words["num_experts_per_tok"] * _expert_size(words), mode.name == "full"
        widening = (_Layer(hidden, words["num_experts"], trained), _Layer(hidden, 2 * wide, trained))
        narrowing = _Layer(wide, hidden, trained)
    else:
        wide = words["intermediate_size"]
        widening = (layer("mlp.gate_proj", hidden, wide), layer("mlp.up_proj", hidden, wide))
        narrowing = layer("mlp.down_proj", wide, hidden)
    return _Block(
        queries=layer("self_attn.q_proj", hidden, channels),
        keys=layer("self_attn.k_proj", hidden, keys),
        values=layer("self_attn.v_proj", hidden, keys),
        output=layer("self_attn.o_proj", channels, hidden),
        widening=widening,
        narrowing=narrowing,
        # Gemma 2 normalises what down_proj gives; experts' outputs are weighted by the router.
        ends_in_product=words["family"] != "gemma2" and not _has_experts(words, index),
        channels=channels,
        causal=not words.get("use_bidirectional_attention"),
        window=_window(words, index),
    )


def _has_experts(words: Mapping[str, Any], index: int) -> bool:
    if index in (words.get("mlp_only_layers") or []):
        return False
    return words.get("num_experts", 0) > 0 and (index + 1) % words.get("decoder_sparse_step", 1) == 0


def _expert_size(words: Mapping[str, Any]) -> int:
    return words.get("moe_intermediate_size", words["intermediate_size"])


def _window(words: Mapping[str, Any], index: int) -> int | None:
    """The sliding window of a block: of all, of those that layer_types names, or of those that it would by default."""
    if not words.get("use_sliding_window", True):
        return None
    window = words.get("sliding_window")
    if "layer_types" not in words:
        return window
    if words["layer_types"] is not None:
        return window if words["layer_types"][index] == "sliding_attention" else None
    slides = index % 2 == 0 if words["family"] == "gemma2" else index >= words["max_window_layers"]
    return window if slides else None


def _parameters(words: Mapping[str, Any]) -> int:
    """Weights, biases and norms of the model without adapters; a tied lm_head is the embedding."""
    hidden, head_dim, wide = words["hidden_size"], words["head_dim"], words["intermediate_size"]
    channels, keys = words["num_attention_heads"] * head_dim, words["num_key_value_heads"] * head_dim
    attention = 2 * hidden * (channels + keys)
    if words["family"] == "qwen2":
        attention += channels + 2 * keys
    elif words.get("attention_bias"):
        attention += channels + 2 * keys + hidden
    if words["family"] in ("qwen3", "qwen3_moe"):
        attention += 2 * head_dim
    norms = hidden * (4 if words["family"] == "gemma2" else 2)
    mlp = 3 * hidden * wide + (2 * wide + hidden if words.get("mlp_bias") else 0)
    mixture = words.get("num_experts", 0) * (hidden + 3 * hidden * _expert_size(words))  # the router's row, the expert
    mixtures = sum(_has_experts(words, index) for index in range(words["num_hidden_layers"]))
    blocks = words["num_hidden_layers"] * (attention + norms + mlp) + mixtures * (mixture - mlp)
    embeddings = words["vocab_size"] * hidden * (1 if words["tie_word_embeddings"] else 2)
    return embeddings + blocks + hidden
