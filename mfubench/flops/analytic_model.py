"""The matrices of a decoder-only transformer, from which the analytic count is made. Pure.

Shares no code with the trace. A model is an embedding, blocks of attention and a gated MLP (or experts), and lm_head, as
in the families' modeling_*.py of transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mfubench.config import ALL_LINEAR, Mode

SIZE_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
QWEN_WINDOW = {"use_sliding_window": False, "sliding_window": 4096}
# The config.json keys that each family's model reads, with their defaults; transformers ignores the
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
class Layer:
    """A weight matrix that positions are multiplied with."""

    inputs: int
    outputs: int
    trained: bool
    rank: int = 0  # of the LoRA matrices beside it; 0: no LoRA

    @property
    def is_trained(self) -> bool:
        """True if the layer or its adapter is trained."""
        return self.trained or self.rank > 0

    @property
    def adapters(self) -> int:
        """Parameters of the LoRA matrices beside it."""
        return self.rank * (self.inputs + self.outputs)


@dataclass(frozen=True)
class Block:
    """A block: the layers of its attention and of its MLP or experts, in order."""

    queries: Layer
    keys: Layer
    values: Layer
    output: Layer
    widening: tuple[Layer, ...]  # gate and up; or the router and the experts' gate and up
    narrowing: Layer  # down
    ends_in_product: bool  # the backward pass needs no tensor made after `narrowing`
    channels: int  # of the attention, all heads together
    causal: bool
    window: int | None  # most positions that a query sees; None: no window

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers of the block, in order."""
        return (self.queries, self.keys, self.values, self.output, *self.widening, self.narrowing)


@dataclass(frozen=True)
class AnalyticModel:
    """A model's matrices, trained as its mode says."""

    blocks: tuple[Block, ...]
    head: Layer
    embedding_trained: bool
    parameters: int  # of the model itself, tied ones once

    @property
    def adapters(self) -> int:
        """Parameters of all LoRA matrices."""
        return sum(layer.adapters for block in self.blocks for layer in block.layers) + self.head.adapters


def not_written_down(architecture: Mapping[str, Any], mode: Mode) -> str | None:
    """The reason why there is no analytic model, to follow "because"; None if there is one."""
    family = architecture.get("model_type")
    if family not in DEFAULTS:
        return f"model_type={family} is none of {', '.join(DEFAULTS)}"
    if mode.modules_to_save:
        return "modules are trained beside LoRA"
    if "num_experts" in _architecture_values(architecture) and _lora_beside_experts(mode):
        return "LoRA stands beside experts"
    return None


def analytic_model(architecture: Mapping[str, Any], mode: Mode) -> AnalyticModel:
    """Build the matrices of a model trained in `mode`.

    `architecture` is transformers' config.json by its own keys. Nothing is checked: `not_written_down` must be None, and the
    result is meaningless for an impossible model.
    """
    words = _architecture_values(architecture)
    return AnalyticModel(
        blocks=tuple(_block(words, mode, index) for index in range(words["num_hidden_layers"])),
        head=_layer(mode, "lm_head", words["hidden_size"], words["vocab_size"]),
        embedding_trained=not mode.has_adapters,
        parameters=_parameters(words),
    )


def _architecture_values(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all keys that the family reads, and `family`."""
    family = architecture["model_type"]
    given = dict(architecture)
    if "num_local_experts" in given:  # transformers has one number under both names
        given.setdefault("num_experts", given["num_local_experts"])
    sizes, more = DEFAULTS[family]
    defaults = {**dict(zip(SIZE_KEYS, sizes, strict=True)), "tie_word_embeddings": family == "gemma2", **more}
    words = {"family": family, **{word: given.get(word, default) for word, default in defaults.items()}}
    heads = words["num_attention_heads"]
    words["num_key_value_heads"] = words["num_key_value_heads"] or heads
    words["head_dim"] = words["head_dim"] or words["hidden_size"] // heads
    return words


def _lora_beside_experts(mode: Mode) -> bool:
    """True if peft would turn LoRA's targets into parameters of experts, as it does for gate_proj and its like."""
    plain, targets = ("q_proj", "k_proj", "v_proj", "o_proj", "lm_head"), mode.target_modules or []
    if isinstance(targets, str):  # all-linear means linear layers, and experts are none
        return mode.has_adapters and targets != ALL_LINEAR
    return mode.has_adapters and any(target.split(".")[-1] not in plain for target in targets)


def _layer(mode: Mode, name: str, inputs: int, outputs: int) -> Layer:
    """The linear layer `name`, with LoRA if the mode adapts it."""
    return Layer(inputs, outputs, trained=not mode.has_adapters, rank=(mode.rank or 0) if mode.adapts(name) else 0)


def _block(words: Mapping[str, Any], mode: Mode, index: int) -> Block:
    hidden, channels = words["hidden_size"], words["num_attention_heads"] * words["head_dim"]
    keys = words["num_key_value_heads"] * words["head_dim"]

    def layer(name: str, inputs: int, outputs: int) -> Layer:
        return _layer(mode, f"model.layers.{index}.{name}", inputs, outputs)

    if _has_experts(words, index):
        # Experts and router are no nn.Linear, so they get no LoRA; to a token, its experts are one wide expert.
        wide, trained = words["num_experts_per_tok"] * _expert_size(words), not mode.has_adapters
        widening = (Layer(hidden, words["num_experts"], trained), Layer(hidden, 2 * wide, trained))
        narrowing = Layer(wide, hidden, trained)
    else:
        wide = words["intermediate_size"]
        widening = (layer("mlp.gate_proj", hidden, wide), layer("mlp.up_proj", hidden, wide))
        narrowing = layer("mlp.down_proj", wide, hidden)
    return Block(
        queries=layer("self_attn.q_proj", hidden, channels),
        keys=layer("self_attn.k_proj", hidden, keys),
        values=layer("self_attn.v_proj", hidden, keys),
        output=layer("self_attn.o_proj", channels, hidden),
        widening=widening,
        narrowing=narrowing,
        # Gemma 2 normalises down_proj's output; experts' outputs are weighted by the router.
        ends_in_product=words["family"] != "gemma2" and not _has_experts(words, index),
        channels=channels,
        causal=not words.get("use_bidirectional_attention"),
        window=_block_window(words, index),
    )


def _has_experts(words: Mapping[str, Any], index: int) -> bool:
    if index in (words.get("mlp_only_layers") or []):
        return False
    return words.get("num_experts", 0) > 0 and (index + 1) % words.get("decoder_sparse_step", 1) == 0


def _expert_size(words: Mapping[str, Any]) -> int:
    return words.get("moe_intermediate_size", words["intermediate_size"])


def _block_window(words: Mapping[str, Any], index: int) -> int | None:
    """The sliding window of a block: every block's, or that of the blocks named by layer_types or by its default."""
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
