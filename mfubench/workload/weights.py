"""Write a model's random weights as `save_pretrained` would write them, drawn straight into the files on all cores.

transformers initialises the model on tensors without data, and the operators that fill them are recorded. In the files
they fill each tensor block by block.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

DRAWING = 1  # weights in a cache that were drawn in another way have another number
BLOCK = 1 << 20  # elements; each thread has one block in memory, larger ones are slower
SHARD_SIZE = "50GB"  # as save_pretrained
DTYPES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.int64": "I64"}  # as safetensors names them

# Standard deviations of the first step's logits and of the embedding, unless they are tied. By transformers' own, 0.4
# (llama-tiny) to 1.3 (8B) and 0.02, trainers with other labels or weights begin with nearly the same loss. For 2 x 256
# tokens of llama-tiny, labels shifted twice change it by 1.6 % instead of 0.1 %, and bf16's rounding by 0.009 % at most;
# wider ones are rounded more, and a wider embedding hides what attention does.
LOGITS_DEVIATION = 3.0
EMBEDDING_DEVIATION = 0.2

Fillings = list[tuple[int, int, Any, tuple[Any, ...]]]  # an operator with its arguments fills the elements [first, end)


class NoRoom(Exception):
    """The weights don't fit on the disk; `str()` is one line with the way out."""


def write_weights(folder: Path, name: str, config: PreTrainedConfig, dtype: str, seed: int, console: Console) -> None:
    """Write the weights of the model called `name` into `folder`, with a progress bar on a terminal.

    Each block is drawn from the seed, the tensor's name and the place in it alone, so that the number of cores changes no
    byte. Values that are computed, as in state-space models, are taken from a model that transformers draws in memory.
    Raises NoRoom before anything is written.
    """
    import torch
    from rich.progress import Progress

    model, tensors, fillings = _recorded(config, dtype)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > (free := shutil.disk_usage(folder).free):
        raise NoRoom(
            f"model {name}: its random weights take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free at "
            f"{folder.parent.parent}; free some, or set MFUBENCH_CACHE to a folder on a larger disk"
        )
    if not all(fillings.values()):
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            in_memory = _initialised(config, dtype)
        tensors = _checkpoint(in_memory, in_memory.state_dict())
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    blocks = _lay_out(folder, model.num_parameters(), tensors)

    def write(tensor: str, first: int, path: Path, offset: int) -> int:
        values = tensors[tensor].flatten()[first : first + BLOCK]
        if fillings[tensor]:
            values = _drawn(values.dtype, first, first + len(values), fillings[tensor], f"{seed} {tensor} {first}")
        with path.open("r+b") as file:
            file.seek(offset)
            return file.write(values.view(torch.uint8).numpy().data)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for each of the pool's
    pool = ThreadPoolExecutor()
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"drawing {size / 1e9:.3g} GB of random weights", total=size)
            for written in pool.map(write, *zip(*blocks, strict=True)):
                bar.advance(task, written)
    finally:  # also at Ctrl-C, or when the disk is full
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _recorded(config: PreTrainedConfig, dtype: str) -> tuple[Any, dict[str, torch.Tensor], dict[str, Fillings]]:
    """A model, its checkpoint on the meta device, and how each tensor of that is filled; by nothing if it is computed."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    fills = (aten.normal_.default, aten.uniform_.default, aten.fill_.Scalar, aten.zero_.default)
    filled: dict[Any, Fillings] = {}  # by storage: the experts of a stack share one

    def empty(like: torch.Tensor) -> torch.Tensor:
        """A meta tensor with a storage of its own size: a part of a stack has the stack's."""
        return torch.empty(like.shape, dtype=like.dtype, device="meta")

    def whole(tensor: torch.Tensor) -> bool:
        return tensor.nbytes == tensor.untyped_storage().nbytes()

    def fillings_of(tensor: torch.Tensor) -> Fillings:
        found = filled.get(tensor.untyped_storage(), [])
        if len(found) == 1:  # all elements are alike, in any part and any order
            return [(0, tensor.numel(), *found[0][2:])]
        return found if whole(tensor) and tensor.is_contiguous() else []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is aten.clone.default:
                filled[out.untyped_storage()] = fillings_of(args[0])
            elif func._schema.is_mutable:
                tensor, first, storage = args[0], args[0].storage_offset(), args[0].untyped_storage()
                before = [] if whole(tensor) else filled.get(storage, [])
                known = func in fills and (whole(tensor) or (before and tensor.is_contiguous()))
                filled[storage] = [*before, (first, first + tensor.numel(), func, args[1:])] if known else []
            return out

    try:
        with FakeTensorMode(), Recorder():
            model = _initialised(config, dtype)
    except RuntimeError:  # the initialisation looks at values
        filled.clear()
        with torch.device("meta"):
            model = _initialised(config, dtype)
    on_meta = {name: empty(tensor) for name, tensor in model.state_dict().items()}
    filled |= {on_meta[name].untyped_storage(): fillings_of(tensor) for name, tensor in model.state_dict().items()}
    with Recorder():
        checkpoint = _checkpoint(model, on_meta)
    fillings = {name: fillings_of(tensor) for name, tensor in checkpoint.items()}
    return model, {name: empty(tensor) for name, tensor in checkpoint.items()}, fillings


def _initialised(config: PreTrainedConfig, dtype: str) -> Any:
    """A model as transformers initialises it, but for LOGITS_DEVIATION and EMBEDDING_DEVIATION.

    Tied ones stay as they are: wider, the token just read would get nearly all the probability.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    as_usual = isinstance(head, torch.nn.Linear) and isinstance(embedding, torch.nn.Embedding)
    if as_usual and head.weight is not embedding.weight:
        # The final norm makes the mean square of the head's inputs 1.
        torch.nn.init.normal_(head.weight, std=LOGITS_DEVIATION / math.sqrt(head.in_features))
        torch.nn.init.normal_(embedding.weight, std=EMBEDDING_DEVIATION)
        if embedding.padding_idx is not None:
            torch.nn.init.zeros_(embedding.weight[embedding.padding_idx])
    return model


def _checkpoint(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that save_pretrained writes, by the names that it gives them."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    return revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))


def _drawn(dtype: torch.dtype, first: int, end: int, fillings: Fillings, drawn_from: str) -> torch.Tensor:
    """Draw the elements [first, end) of a tensor."""
    import torch

    seed = int.from_bytes(hashlib.sha256(drawn_from.encode()).digest()[:4], "big")  # torch's generator uses 32 bits
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(end - first, dtype=torch.float32 if dtype.is_floating_point else dtype)
    for begin, stop, operator, arguments in fillings:
        part = values[max(begin - first, 0) : max(stop - first, 0)]
        random = operator._schema.arguments[-1].name == "generator"
        if len(part):
            operator(part, *arguments, **({"generator": generator} if random else {}))
    return values.to(dtype)


def _lay_out(folder: Path, num_parameters: int, tensors: dict[str, torch.Tensor]) -> list[tuple[str, int, Path, int]]:
    """Write the files' headers and, if there are several files, their index.

    Returns for each block of a tensor its name, its first element, its file and the offset there in bytes.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD_SIZE)
    if split.is_sharded:
        metadata = {"total_parameters": num_parameters, **split.metadata}
        index = json.dumps({"metadata": metadata, "weight_map": split.tensor_to_filename}, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(index + "\n", encoding="utf-8")
    blocks = []
    for file_name, names in split.filename_to_tensors.items():
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        names.sort(key=lambda name: (-tensors[name].itemsize, name))  # so that each is aligned
        for name in names:
            begin, end = end, end + tensors[name].nbytes
            dtype, shape = DTYPES[str(tensors[name].dtype)], list(tensors[name].shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        path = folder / file_name
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        for name in names:
            data = 8 + len(text) + header[name]["data_offsets"][0]
            starts = range(0, tensors[name].numel(), BLOCK)
            blocks += [(name, first, path, data + first * tensors[name].itemsize) for first in starts]
    return blocks
