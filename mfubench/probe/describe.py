"""Describe the work that was really done: the fields of the `work` event, from the root module and its first step."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .first_step import ATTENTION_CALLS, FirstStep, four_bit_state, is_compiled, size
from .liger import find_liger_kernels

# The attributes of wrappers that hold the wrapped module: data parallelism, torch.compile, sharding, adapters.
WRAPPED = ("module", "_orig_mod", "_fsdp_wrapped_module", "base_model")
# Keys of a config that change nothing in a training step.
NO_ARCHITECTURE = ("architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id", "use_cache")
# Packages of the classes that make a model train on several devices.
PARALLEL_PACKAGES = ("torch.nn.parallel", "torch.distributed", "deepspeed", "megatron")


def describe_work(root: nn.Module, first: FirstStep) -> dict[str, Any]:
    """Describe the model, its wrappers, optimizers and recomputation; null if unknown."""
    links = chain(root)
    config = getattr(links[-1], "config", None)
    parameters = list(root.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "model": _class_name(links[-1]),
        "model_type": getattr(config, "model_type", None),
        "config": _architecture(config),
        "lora": _lora(root, links),
        "wrappers": [type(link).__name__ for link in links],
        "parallel_wrappers": _parallel_classes(links),
        "zero_stage": _zero_stage(links),
        "world_size": torch.distributed.get_world_size() if distributed else 1,
        **_device(parameters),
        "threads": torch.get_num_threads(),
        "seed": torch.initial_seed(),
        "parameters": _elements(parameters),
        "trainable_parameters": _elements(trainable),
        "trainable_parameters_with_gradient": _with_gradient(trainable, first),
        "dtypes": {
            "trainable": _by_dtype(map(size, trainable)),
            "frozen": _by_dtype(size(p) for p in parameters if not p.requires_grad),
        },
        "quantized": _by_dtype(size(p) for p in parameters if four_bit_state(p) is not None),
        "autocast": first.autocast,
        "linear_dtype": max(first.linear_dtypes, key=first.linear_dtypes.__getitem__, default=None),
        "tf32": _tf32(),
        "optimizers": _optimizers(first),
        "optimizers_step_copies": _step_copies(trainable, first),
        "attention": {
            "implementation": getattr(config, "_attn_implementation", None),  # named in the config
            **(first.attention_calls or dict.fromkeys(ATTENTION_CALLS)),
        },
        **_recomputation(root, first),
        "liger_kernels": find_liger_kernels(root),
        "compiled": any(is_compiled(module) for module in root.modules()),
    }


def chain(root: nn.Module) -> list[nn.Module]:
    """The root and the modules it wraps, from the outside in; the last one is the model itself."""
    links = [root]
    while True:
        children = links[-1]._modules
        inner = next((children[name] for name in WRAPPED if children.get(name) is not None), None)
        if inner is None and list(children) == ["model"]:  # a PEFT tuner; a bare model also has its head
            inner = children["model"]
        if inner is None:
            return links
        links.append(inner)


def _architecture(config: Any) -> dict[str, Any] | None:
    """The keys of transformers' config that say what the model is; null if it has no such config."""
    try:
        keys = json.loads(json.dumps(config.to_dict())) if getattr(config, "model_type", None) else None
    except (AttributeError, TypeError, ValueError):  # another class's config
        return None
    return keys and {k: v for k, v in keys.items() if v is not None and k[:1] != "_" and k not in NO_ARCHITECTURE}


def _lora(root: nn.Module, links: list[nn.Module]) -> dict[str, Any] | None:
    """The LoRA settings that PEFT keeps beside the model, and the layers that have matrices by their last name."""
    configs = [getattr(link, "peft_config", None) for link in links]
    adapters = next((list(config.values()) for config in configs if isinstance(config, dict)), [])
    layers = {name.rpartition(".")[2] for name, module in root.named_modules() if "lora_A" in module._modules}
    if not adapters or not layers:
        return None
    told = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
    settings = {name: getattr(adapters[0], key, None) for name, key in told.items()}
    return {**settings, "target_modules": sorted(layers)}


def _class_name(module: nn.Module) -> str:
    """The class name as written, even if sharding has derived a class of its own."""
    written = (base for base in type(module).__mro__ if not base.__module__.startswith(PARALLEL_PACKAGES))
    return next(written).__name__


def _tf32() -> bool | None:
    """True if fp32 products may use TF32 on CUDA; None if torch refuses to tell, as its old and new switch were both used."""
    matmul = torch.backends.cuda.matmul
    try:
        return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    except RuntimeError:
        return None


def _parallel_classes(links: list[nn.Module]) -> list[str]:
    classes = [base for link in links for base in type(link).__mro__]
    return [base.__name__ for base in classes if base.__module__.startswith(PARALLEL_PACKAGES)]


def _zero_stage(links: list[nn.Module]) -> int | None:
    """DeepSpeed's ZeRO stage, 0 to 3; None without DeepSpeed."""
    stages = (getattr(link, "zero_optimization_stage", None) for link in links)
    return next((int(stage()) for stage in stages if stage is not None), None)


def _device(parameters: list[nn.Parameter]) -> dict[str, str]:
    if any(p.is_cuda for p in parameters):
        return {"device": "cuda", "device_name": torch.cuda.get_device_name()}  # not yet run on CUDA
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    device = parameters[0].device.type if parameters else "cpu"
    return {"device": device, "device_name": names[0] if names else platform.machine()}


def _step_copies(trainable: list[nn.Parameter], first: FirstStep) -> bool:
    """True if optimizers step copies of the parameters, as DeepSpeed's do."""
    model_ids = {id(p) for p in trainable}
    return any(not model_ids.issuperset(optimizer.stepped) for optimizer in first.optimizers.values())


def _with_gradient(trainable: list[nn.Parameter], first: FirstStep) -> int | None:
    """Elements of the trainable parameters that had a gradient when the optimizer started.

    None if the optimizer steps copies and the gradients were not observed on their way to them.
    """
    if _step_copies(trainable, first) and not first.hears_gradients:
        return None
    return _elements(p for p in trainable if id(p) in first.with_gradient)


def _elements(parameters: Iterable[nn.Parameter]) -> int:
    return sum(elements for _, elements in map(size, parameters))


def _by_dtype(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for dtype, elements in sizes:
        total[dtype] += elements
    return dict(total)


def _optimizers(first: FirstStep) -> list[dict[str, Any]]:
    """One entry per class; there may be an optimizer per parameter."""
    kinds: dict[tuple[str, Any], list[Any]] = {}
    for optimizer in first.optimizers.values():
        kinds.setdefault((optimizer.name, optimizer.fused), []).append(optimizer)
    return [
        {
            "class": name,
            "fused": fused,
            "steps": _by_dtype(each for optimizer in alike for each in optimizer.stepped.values()),
            "state": _by_dtype(each for optimizer in alike for each in optimizer.state.values()),
        }
        for (name, fused), alike in kinds.items()
    ]


def _recomputation(root: nn.Module, first: FirstStep) -> dict[str, Any]:
    """The kind of recomputation, and the number of recomputed modules by class. A compiled model may hide both."""
    reentrant = first.recomputed_reentrant
    by_kind = {"non_reentrant": first.recomputed - reentrant, "reentrant": reentrant}
    kinds = [kind for kind, modules in by_kind.items() if modules]
    if not kinds and first.attention_calls is None:
        return {"recomputation": None, "recomputed": {}}
    blocks = Counter(_class_name(module) for module in _whole_blocks(root, first.recomputed))
    return {"recomputation": " and ".join(kinds) or "none", "recomputed": dict(blocks)}


def _whole_blocks(root: nn.Module, recomputed: set[nn.Module]) -> list[nn.Module]:
    """The outermost modules recomputed whole; a checkpointed forward shows up as calls of all its module's children."""
    whole = set(recomputed)
    for module in reversed(list(root.modules())):  # children come after their parents
        children = list(module.children())
        if children and whole.issuperset(children) and not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            whole.add(module)

    def outermost(module: nn.Module) -> list[nn.Module]:
        if module in whole:
            return [module]
        return [block for child in module.children() for block in outermost(child)]

    return outermost(root)
