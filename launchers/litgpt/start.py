"""Write the files that LitGPT reads beside its config, then run `litgpt COMMAND --config CONFIG` in this process's place.

LitGPT reads weights in a format of its own, and data from a folder that has validation samples too. Both are made from
the model in LitGPT's names, its weights in transformers' format, a tokenizer and the samples.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import torch
import yaml
from litgpt import Config
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import incremental_save
from safetensors.torch import load_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def main() -> None:
    """Write checkpoint and data, then become LitGPT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("finetune_full", "finetune_lora"))
    parser.add_argument("config", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="model_config.yaml")
    parser.add_argument("--weights", type=Path, required=True, help="a folder with *.safetensors")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder")
    parser.add_argument("--samples", type=Path, required=True, help="JSONL of instruction, input and output")
    parser.add_argument("--accumulation", type=int, required=True, help="micro-batches per optimizer step")
    parser.add_argument("--alpha", type=whole, help="LoRA's; None without LoRA")
    given = parser.parse_args()
    config = yaml.safe_load(given.config.read_text(encoding="utf-8"))
    dtype = torch.bfloat16 if config["precision"] == "bf16-true" else torch.float32
    write_checkpoint(Path(config["checkpoint_dir"]), given.model, given.weights, given.tokenizer, dtype)
    write_data(Path(config["data"]["init_args"]["json_path"]), given.samples)

    # LitGPT wants samples per step, not micro-batches, and a whole alpha. Values in the config come later and win.
    said = [f"--train.global_batch_size={config['train']['micro_batch_size'] * given.accumulation}"]
    if given.alpha is not None:
        said.append(f"--lora_alpha={given.alpha}")
    litgpt = str(Path(sys.executable).parent / "litgpt")
    os.execv(litgpt, [litgpt, given.command, *said, "--config", str(given.config)])


def whole(text: str) -> int | None:
    """Parse a number as LitGPT takes it; an error of the command line unless it is whole."""
    if text == "None":
        return None
    number = float(text)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"LitGPT's lora_alpha must be a whole number, and {text} was given")
    return int(number)


def write_checkpoint(folder: Path, model: Path, weights: Path, tokenizer: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint in LitGPT's format, with the weights of a folder in `dtype`.

    The files are mapped, not read, and each tensor is written as soon as it is converted; only the attention's joined
    projections are held until the end. Raises FileNotFoundError if the folder has no weights, OSError if the disk has no room.
    """
    folder.mkdir(parents=True)
    shutil.copy(model, folder / "model_config.yaml")
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder)
    shards = sorted(weights.glob("*.safetensors"))
    if not shards:
        raise FileNotFoundError(f"{weights} has no *.safetensors, which LitGPT's weights are made from")
    # All shards at once: a layer's q, k and v may lie in two of them.
    mapped = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    needed, free = sum(tensor.numel() for tensor in mapped.values()) * dtype.itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"LitGPT's copy of the weights takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at {folder}"
        )
    state: dict[str, torch.Tensor] = {}
    with incremental_save(folder / "lit_model.pth") as file:
        copy_weights_hf_llama(Config.from_file(model), {}, state, mapped, saver=file, dtype=dtype)
        file.save(state)


def write_data(folder: Path, samples: Path) -> None:
    """Write a folder with all the samples to train on, and the first one to validate on, once, before the first step."""
    folder.mkdir(parents=True)
    (folder / "train.jsonl").symlink_to(samples)
    with samples.open(encoding="utf-8") as lines:
        (folder / "val.jsonl").write_text(next(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
