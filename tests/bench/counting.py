"""What counting FLOPs takes, beside PyTorch's counter used plainly. In: a folder to work in. Out: Lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mfubench.files.paths import CONF

from .figures import Line, run

COUNT_RUNS = 3
# Imports come first and are not timed: whoever counts has torch and transformers to import in any case. Memory is all of it.
COUNTING = """
import json, resource, sys, time, warnings
import yaml
import peft, torch, torch.utils.flop_counter, transformers
import transformers.models.llama.modeling_llama
import mfubench.probe.formulas
from mfubench.config import Mode
from mfubench.flops.count import count
file, mode, recomputation = sys.argv[1:]
targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
lora = {"rank": 8, "alpha": 16, "dropout": 0.05, "target_modules": targets} if mode == "lora" else {}
architecture = yaml.safe_load(open(file, encoding="utf-8"))["architecture"]
def measured():
    %s
began = time.perf_counter()
measured()
print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))
"""
OURS = COUNTING % (
    "count(architecture, Mode(name=mode, **lora), recomputation=recomputation, attention='sdpa', "
    "batch_size=2, sequence_length=2048)"
)
# PyTorch's counter used plainly: the whole model on the meta device, every block of it traced.
PLAINLY = (
    COUNTING
    % """
    warnings.simplefilter("ignore")
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(**architecture)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        if lora:
            model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=targets), autocast_adapter_dtype=False)
        ids = torch.empty(2, 2048, dtype=torch.long)
        mask = torch.empty(1, 1, 2048, 2048, dtype=torch.bfloat16)  # made outside: making one looks at values
        places = torch.arange(2048).expand(2, -1)
    if recomputation != "none":
        model.gradient_checkpointing_enable({"use_reentrant": recomputation == "reentrant"})
        model.enable_input_require_grads()
    given = {"input_ids": ids, "labels": ids, "attention_mask": mask, "position_ids": places, "use_cache": False}
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        model.train()(**given).loss.backward()
"""
)


def counting(folder: Path) -> list[Line]:
    """Counting 2 x 2048 tokens beyond the imports, each time in a process of its own; beside PyTorch's counter, in turns."""
    cases = [
        ("llama-3.1-8b", "full", "none", 1.0),
        ("llama-3.1-8b", "full", "reentrant", 1.0),
        ("llama-3.1-8b", "lora", "reentrant", 1.0),
        ("llama-3.1-405b", "lora", "reentrant", 3.0),
    ]
    lines = []
    for model, mode, recomputation, goal in cases:
        arguments = [str(CONF / "model" / f"{model}.yaml"), mode, recomputation]
        pairs = [(_counted(OURS, arguments, folder), _counted(PLAINLY, arguments, folder)) for _ in range(COUNT_RUNS)]
        name = f"counting {model}, {mode}, {recomputation}"
        lines += [
            Line(name, "s", [ours[0] for ours, _ in pairs], goal),
            Line(f"{name}: peak memory", "MB", [ours[1] for ours, _ in pairs], 600.0),
            Line(f"{name}: PyTorch's counter on the whole model", "s", [plain[0] for _, plain in pairs], None),
            Line(f"{name}: its peak memory", "MB", [plain[1] for _, plain in pairs], None),
            Line(f"{name}: its time over ours, pair by pair", "x", [p[0] / ours[0] for ours, p in pairs], None),
        ]
    return lines


def _counted(program: str, arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and the peak of the memory in MB."""
    seconds, megabytes = json.loads(run([sys.executable, "-c", program, *arguments], folder).stdout.splitlines()[-1])
    return seconds, megabytes
