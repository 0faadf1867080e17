"""Fine-tune a causal language model with transformers' Trainer: all weights, or LoRA with PEFT, perhaps over 4-bit weights.

    python train.py CONFIG.yaml
    python -m torch.distributed.run --standalone --nproc_per_node=2 train.py CONFIG.yaml

CONFIG.yaml is flat. Its keys are the fields of the four classes below and of transformers' TrainingArguments; any other
key is an error. 4-bit weights are bitsandbytes'. Nothing is evaluated and nothing is saved.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


@dataclass
class ModelArguments:
    """The model."""

    model_name_or_path: str = field(metadata={"help": "A folder, or an id on the hub."})
    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "The tokenizer's, if not the same."})
    revision: str = field(default="main", metadata={"help": "Branch, tag or commit on the hub."})
    random_weights: bool = field(
        default=False, metadata={"help": "Draw random weights on the device instead of loading any."}
    )
    model_dtype: str = field(default="float32", metadata={"help": "The weights' dtype: float32 or bfloat16."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "eager, sdpa, flash_attention_2."})


@dataclass
class QuantizationArguments:
    """4-bit weights, as in transformers' BitsAndBytesConfig: all linear layers but lm_head."""

    load_in_4bit: bool = field(default=False, metadata={"help": "Hold the weights in 4 bits; they can't be trained."})
    bnb_4bit_quant_type: str = field(default="nf4", metadata={"help": "The type of the weights: nf4, fp4."})
    bnb_4bit_use_double_quant: bool = field(default=False, metadata={"help": "Hold the blocks' scales in 8 bits."})
    bnb_4bit_compute_dtype: str = field(
        default="bfloat16", metadata={"help": "The dtype of the products: float32 or bfloat16."}
    )


@dataclass
class LoraArguments:
    """LoRA; without `lora_r`, all weights are trained."""

    lora_r: int | None = field(default=None, metadata={"help": "Rank of the matrices."})
    lora_alpha: float = field(default=16, metadata={"help": "The update is scaled by alpha / rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout in front of the matrices."})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Last names of the linear layers; or all-linear, or a regular expression."}
    )
    use_rslora: bool = field(default=False, metadata={"help": "Scale the update by alpha / sqrt(rank) instead."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Last names of modules to train in full."}
    )
    lora_float32: bool = field(default=True, metadata={"help": "Hold the matrices in float32 beside bfloat16 weights."})


@dataclass
class DataArguments:
    """The samples; every token of a sample is trained on."""

    train_file: str = field(metadata={"help": 'JSONL, one {"messages": [{"role", "content"}, ...]} a line.'})
    max_length: int = field(metadata={"help": "Tokens of a sample: longer ones are cut."})
    padding: str = field(
        default="max_length",
        metadata={
            "help": "Padding of shorter samples: to max_length, or to the longest of their micro-batch (longest)."
        },
    )

    def __post_init__(self) -> None:
        if self.padding not in ("max_length", "longest"):
            raise ValueError(f"padding is {self.padding!r}; expected max_length or longest")


def main(config_file: str) -> None:
    """Train as the configuration file says."""
    classes: Any = (ModelArguments, QuantizationArguments, LoraArguments, DataArguments, TrainingArguments)
    model_arguments, quantization, lora, data, training = HfArgumentParser(classes).parse_yaml_file(config_file)
    set_seed(training.seed)
    tokenizer = AutoTokenizer.from_pretrained(
        model_arguments.tokenizer_name_or_path or model_arguments.model_name_or_path, revision=model_arguments.revision
    )
    # One process tokenises into the cache, the others read what it wrote.
    with training.main_process_first():
        samples = tokenized(tokenizer, data, Path(training.output_dir) / "datasets")
    base = load_model(model_arguments, quantization, training)
    model = base if lora.lora_r is None else with_lora(base, lora.lora_r, lora)
    pad = default_data_collator if data.padding == "max_length" else DataCollatorForSeq2Seq(tokenizer)
    trainer = Trainer(model=model, args=training, train_dataset=samples, data_collator=pad)
    trainer.train()
    # A rank that exits with its process group open may abort, and so may one whose peers are still talking to it.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


def tokenized(tokenizer: PreTrainedTokenizerBase, data: DataArguments, cache: Path) -> Dataset:
    """Tokenize the samples into input_ids, attention_mask and labels, padded to `max_length` or not at all.

    Labels of padding are -100. Raises ValueError, with the line, for a sample that the chat template can't render.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def tokenize(sample: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            encoded: Any = tokenizer.apply_chat_template(
                sample["messages"],
                tokenize=True,
                return_dict=True,
                truncation=True,
                padding="max_length" if data.padding == "max_length" else False,
                max_length=data.max_length,
            )
        except Exception as error:  # a template may raise anything
            raise ValueError(
                f"{data.train_file}, line {index + 1}: the tokenizer's chat template can't render it: {error}"
            ) from error
        labels = [
            token if real else -100 for token, real in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
        ]
        return {**encoded, "labels": labels}

    samples = load_dataset("json", data_files=data.train_file, split="train", cache_dir=str(cache))
    return samples.map(tokenize, with_indices=True, remove_columns=samples.column_names)


def load_model(
    arguments: ModelArguments, quantization: QuantizationArguments, training: TrainingArguments
) -> PreTrainedModel:
    """Load the model's weights from its folder or the hub, or draw random ones that never were on a disk or in host memory."""
    options: dict[str, Any] = {"dtype": arguments.model_dtype, "attn_implementation": arguments.attn_implementation}
    if quantization.load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(**vars(quantization))
        options["device_map"] = {"": training.device}  # 4-bit weights can't be moved later
    if not arguments.random_weights:
        return AutoModelForCausalLM.from_pretrained(
            arguments.model_name_or_path, revision=arguments.revision, **options
        )
    config = AutoConfig.from_pretrained(arguments.model_name_or_path, revision=arguments.revision)
    if quantization.load_in_4bit:
        return random_4bit_model(config, training.device, options)
    with training.device:
        return AutoModelForCausalLM.from_config(config, **options)


def random_4bit_model(config: PreTrainedConfig, device: torch.device, options: dict[str, Any]) -> PreTrainedModel:
    """Draw random weights as the checkpoint that from_pretrained loads, and packs to 4 bits one by one.

    The device never holds the whole model in 16 bits.
    """
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config)
    linear = [(name, module) for name, module in shapes.named_modules() if isinstance(module, torch.nn.Linear)]
    drawn = {
        f"{name}.{part}": Drawn(tensor.shape, device, config.initializer_range if part == "weight" else 0.0)
        for name, module in linear
        if module is not shapes.get_output_embeddings()
        for part, tensor in module.named_parameters()
    }
    # from_pretrained makes tensors missing from the checkpoint as from_config does.
    return type(shapes).from_pretrained(None, config=config, state_dict=drawn, **options)


@dataclass
class Drawn:
    """A tensor of a checkpoint that is drawn when it is read, normally distributed about 0."""

    shape: torch.Size
    device: torch.device
    deviation: float

    def __getitem__(self, _: Any) -> torch.Tensor:
        return torch.normal(0.0, self.deviation, self.shape, device=self.device)


def with_lora(model: PreTrainedModel, rank: int, lora: LoraArguments) -> PeftModel:
    """Freeze all weights, and add LoRA matrices to the chosen layers."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=lora.lora_alpha,  # type: ignore[arg-type]  # any number works: it is divided by the rank
        lora_dropout=lora.lora_dropout,
        target_modules=lora.lora_target_modules,
        use_rslora=lora.use_rslora,
        modules_to_save=lora.modules_to_save or None,
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=lora.lora_float32)
    if lora.lora_float32:  # modules trained in full too
        for parameter in adapted.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    return adapted


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} CONFIG.yaml")
    main(sys.argv[1])
