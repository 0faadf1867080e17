"""Fine-tune a causal language model from a file in LLMForge's YAML schema, with an open stack. This is not LLMForge itself.

LLMForge is closed; it is documented to be built on the same libraries: Accelerate, DeepSpeed, Transformers, PEFT, Liger.

    python finetune.py FILE.yaml
    python finetune.py --nodes 2 FILE.yaml -- --nnodes=2 --rdzv_backend=c10d --rdzv_endpoint=HOST:PORT    # on each of two

It starts num_devices ranks on this machine by itself, on each of several nodes its share of them, with torchrun's arguments
after --; a run with a DeepSpeed file is always started so. Every mistake in the file is reported before any rank is started,
with exit status 2.

Defaults for what the schema leaves open:
  task                 causal_lm, every token trained on; instruction_tuning trains on the assistant's alone
  epochs               num_epochs, else as many as min_update_steps (100) takes
  context_length       the length that 95 of 100 samples fit into, at most the model's own limit
  precision            the DeepSpeed file's bf16.enabled; without a file bf16 on a GPU, fp32 on a CPU. fp32 on a GPU is TF32
  attention            sdpa, or flash_attention_2: true
  checkpointing        on, reentrant
  liger_kernel         off; enabled without kwargs: rope, rms_norm, swiglu and fused_linear_cross_entropy, as Liger has no
                       two cross entropies at once
  optimizer            fused AdamW without weight decay, gradients clipped at a norm of 1 (DeepSpeed: as its file says)
  learning rate        cosine, or linear, after 10 warm-up steps; or constant, without
  samples              in the file's order, padded to the longest of a micro-batch
Nothing is evaluated, logged or saved.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from textwrap import fill

import schema
from data import Conversation, read_conversations, read_samples
from fields import FileError
from schema import Settings


def main(argv: Sequence[str]) -> int:
    """Check everything, then train, or become the launcher of the ranks. Returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        settings = schema.read(arguments.file)
        conversations = read_conversations(settings.train_path)
        _check_ranks(settings)
        _check_machine(settings, arguments.nodes)
        if arguments.weights == "disk":
            _check_weights(settings.model_id)
        # The frameworks are imported only once the file has passed the checks above.
        if _needs_launcher(settings):
            _check_model(settings, conversations)
            sys.stdout.flush()
            os.execv(sys.executable, _launcher(settings, arguments, argv))
        from training import train

        train(settings, conversations, random_weights=arguments.weights == "device", seed=arguments.seed)
    except FileError as error:
        print(error.screen(str(arguments.file)), file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    listed: dict[str, Iterable[str]] = {
        "obeyed": schema.OBEYED,
        "without effect here": schema.WITHOUT_EFFECT,
        "errors here": schema.IMPOSSIBLE,
    }
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(
            fill(f"{what}: {', '.join(fields)}", 110, subsequent_indent="  ") for what, fields in listed.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a file in LLMForge's schema")
    parser.add_argument(
        "--weights",
        choices=("disk", "device"),
        default="disk",
        help="load model_id's, from its folder or the hub (disk), or draw random ones on the device (device)",
    )
    parser.add_argument(
        "--nodes", type=int, default=1, help="nodes on which this is started, each with its share of ranks"
    )
    parser.add_argument(
        "torchrun", nargs="*", default=["--standalone"], help="after --: how torchrun finds other nodes"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights, LoRA matrices and dropout")
    return parser


def _check_ranks(settings: Settings) -> None:
    started = os.environ.get("WORLD_SIZE")
    if "RANK" in os.environ and started != str(settings.num_devices):
        raise FileError(
            "num_devices", settings.num_devices, f"{started}, the number of ranks that were started (WORLD_SIZE)"
        )


def _check_machine(settings: Settings, nodes: int) -> None:
    """Check that kernels which need a GPU have one. Not yet run on CUDA."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0 and settings.liger is not None:
        raise FileError("liger_kernel.enabled", True, "false: Liger's kernels need a GPU, and there is none")
    if gpus == 0 and settings.flash_attention_2:
        raise FileError("flash_attention_2", True, "false: FlashAttention's kernels need a GPU, and there is none")
    if 0 < gpus * nodes < settings.num_devices:
        raise FileError(
            "num_devices", settings.num_devices, f"at most {gpus * nodes}, the GPUs of {nodes} such machine(s)"
        )


def _check_weights(model_id: str) -> None:
    """Check that a folder on this disk holds weights; a hub id is checked by the hub."""
    folder = Path(model_id)
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileError("model_id", folder, "a folder with weights (*.safetensors or *.bin), or --weights device")


def _check_model(settings: Settings, conversations: Sequence[Conversation]) -> None:
    """Check the model once, instead of in each rank."""
    from model import position_limit, read_config

    limit = position_limit(read_config(settings))
    if settings.task == "instruction_tuning":  # only the tokens show if the assistant speaks
        read_samples(settings, conversations, limit)


def _needs_launcher(settings: Settings) -> bool:
    """True if a launcher has to start the ranks: DeepSpeed wants a rank's environment even for one device."""
    return "RANK" not in os.environ and (settings.num_devices > 1 or settings.deepspeed is not None)


def _launcher(settings: Settings, arguments: argparse.Namespace, argv: Sequence[str]) -> list[str]:
    """The command that starts this same program once for every device here; it looks for a dead rank every second."""
    ranks, own = settings.num_devices // arguments.nodes, list(takewhile(lambda word: word != "--", argv))
    options = [*arguments.torchrun, "--monitor_interval=1", f"--nproc_per_node={ranks}"]
    return [sys.executable, "-m", "torch.distributed.run", *options, os.path.abspath(__file__), *own]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
