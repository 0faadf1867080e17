"""Build the transformers model of the settings on a device, with Liger's kernels, LoRA and checkpointing.

Settings that don't fit the model raise FileError before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fields import FileError, nearest
from schema import Settings

if TYPE_CHECKING:
    import torch
    from peft import PeftMixedModel, PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel


def read_config(settings: Settings) -> PreTrainedConfig:
    """The model's config.json, fetched from the hub if need be.

    Raises FileError if there is none, or if the settings ask for longer contexts than the model has, for layers it lacks,
    or for kernels that Liger lacks for it.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(settings.model_id)
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        expected = f"a model's folder, or its id on the hub ({why})"
        raise FileError("model_id", "", expected, place=settings.model_id) from error
    limit = position_limit(config)
    if settings.context_length is not None and settings.context_length > limit:
        raise FileError("context_length", settings.context_length, f"at most {limit}, the positions this model has")
    if settings.liger is not None:
        _check_liger(config.model_type)
    if settings.lora is not None:
        _check_lora(config, settings.lora)
    return config


def position_limit(config: PreTrainedConfig) -> int:
    """The most positions in a sequence, by the model's config."""
    return int(config.get_text_config().max_position_embeddings)


def load(settings: Settings, *, random_weights: bool, bf16: bool, autocast: bool, device: torch.device) -> Any:
    """Load the model. Under `autocast` trained weights are held in fp32; without it all weights are bf16 or fp32.

    Random weights are drawn on the device. Under ZeRO stage 3 the model is made in shards, by transformers, as soon as
    Accelerate knows of DeepSpeed: call this after the Accelerator was made.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    in_bf16 = bf16 and (settings.lora is not None or not autocast)
    options = {
        "dtype": torch.bfloat16 if in_bf16 else torch.float32,
        "attn_implementation": "flash_attention_2" if settings.flash_attention_2 else "sdpa",
    }
    if random_weights:
        with device:
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(settings.model_id), **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(settings.model_id, **options)
    model.config.use_cache = False
    if settings.liger is not None:
        _apply_liger(model, settings.liger)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    return model if settings.lora is None else _with_lora(model, settings, in_float32=autocast)


def _with_lora(model: PreTrainedModel, settings: Settings, *, in_float32: bool) -> PeftModel | PeftMixedModel:
    """Add LoRA; `in_float32` holds its matrices in float32.

    DeepSpeed keeps float32 copies anyway; at stage 3 it would leave them in float32 and multiply in float32.
    """
    from peft import LoraConfig, get_peft_model

    assert settings.lora is not None
    if settings.gradient_checkpointing:
        # A reentrant block has gradients only if its input has one, and frozen embeddings give none.
        model.enable_input_require_grads()
    return get_peft_model(model, LoraConfig(**settings.lora), autocast_adapter_dtype=in_float32)


def _check_lora(config: PreTrainedConfig, lora: Mapping[str, Any]) -> None:
    """Raise FileError for names that match nothing: PEFT ignores them as long as one name matches."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        modules = dict(AutoModelForCausalLM.from_config(config).named_modules())
    for field in ("target_modules", "modules_to_save"):
        given = lora.get(field) or []
        for name in given if isinstance(given, list) else []:
            if not any(path == name or path.endswith(f".{name}") for path in modules):
                like = nearest(name, _last_names(modules))
                raise FileError(f"lora_config.{field}", given, f"modules that {config.model_type} has{like}")


def _last_names(paths: Iterable[str]) -> set[str]:
    return {path.rpartition(".")[2] for path in paths if path and not path.rpartition(".")[2].isdigit()}


def _check_liger(model_type: str) -> None:
    # Not yet run on CUDA.
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise FileError("liger_kernel.enabled", True, f"false: Liger has no kernels for {model_type}")


def _apply_liger(model: PreTrainedModel, kernels: Mapping[str, bool]) -> None:
    """Swap in the kernels that are on. Gemma's GEGLU goes by the name of SwiGLU here. Not yet run on CUDA."""
    from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model=model, **kernels, geglu=kernels["swiglu"])
