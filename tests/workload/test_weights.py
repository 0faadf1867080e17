"""Random weights on the disk: the values that transformers draws, in the files that it writes, whatever interrupts them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mfubench import workload
from mfubench.config import Data, Experiment, Model
from mfubench.run import run
from mfubench.workload import prepare_workload, weights
from mfubench.workload.architecture import config_of
from tests.architectures import architecture_of

QUIET = Console(quiet=True)
TINY = {**architecture_of("llama-tiny"), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2}
SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FEW_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
DEEPSEEK = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 32}


def config(model_type: str, **changes: Any) -> Any:
    """A config of a small model of this type."""
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **{**SMALL, **changes})


def written(folder: Path, config: Any, *, dtype: str = "float32", seed: int = 0) -> Path:
    """The folder, with a model's weights in it."""
    folder.mkdir(parents=True)
    weights.write_weights(folder, "small", config, dtype, seed, QUIET)
    config.save_pretrained(folder)
    return folder


def prepared(folder: Path, console: Console = QUIET, **changes: Any) -> Path:
    """The folder of a model with weights in the cache `folder`."""
    model = Model(name="small", hub_id=None, revision=None, weights="random", architecture={**TINY, **changes})
    asked: dict[str, Any] = {"sequence_length": 16, "num_samples": 2, "seed": 0, "weights_on_disk": True}
    made = prepare_workload(model, Data(name="synthetic"), **asked, dtype="bfloat16", folder=folder, console=console)
    return Path(made.model_path)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("qwen2", {"tie_word_embeddings": True}),  # with biases
        ("mixtral", FEW_EXPERTS),  # stacks of experts in memory, one by one in the file
        ("qwen3_moe", FEW_EXPERTS),
        ("deepseek_v3", {**FEW_EXPERTS, **DEEPSEEK}),  # a buffer in the file
        ("gemma3_text", {"head_dim": 16}),  # norms around 0, a row of zeros in the embedding
        ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4}),  # some layers by another deviation
        ("mamba", {}),  # values that are computed
        ("modernbert-decoder", {"pad_token_id": 0}),  # truncated, which looks at values
    ],
)
def test_every_tensor_has_the_distribution_that_transformers_draws_it_from(
    tmp_path: Path, model_type: str, changes: dict[str, Any]
) -> None:
    import torch
    from scipy.stats import ks_2samp
    from transformers import AutoModelForCausalLM

    given = config(model_type, **changes)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        written(tmp_path / "made", given), dtype="auto", output_loading_info=True
    )
    model, loading = loaded
    assert not any(loading.values())  # no tensor is missing, unexpected or of another shape
    torch.manual_seed(1)
    reference = AutoModelForCausalLM.from_config(given)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head is not embedding:
        reference.get_output_embeddings().weight.data.normal_(0, 3.0 / 64**0.5)
        reference.get_input_embeddings().weight.data *= 0.2 / 0.02
    ours, theirs = model.state_dict(), reference.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        drawn = ours[name]
        assert (drawn.shape, drawn.dtype) == (tensor.shape, tensor.dtype)
        if tensor.unique().numel() < 10 or "A_log" in name:  # norms, biases, what is computed
            assert torch.equal(drawn, tensor), name
        else:
            mean, deviation, error = tensor.mean().item(), tensor.std().item(), tensor.numel() ** -0.5
            assert drawn.mean().item() == pytest.approx(mean, abs=5 * error * deviation), name
            assert drawn.std().item() == pytest.approx(deviation, rel=5 * error), name
            assert ks_2samp(drawn.flatten()[:100_000], tensor.flatten()[:100_000]).pvalue > 1e-5, name
            assert not torch.equal(drawn, tensor)
    if (row := getattr(model.get_input_embeddings(), "padding_idx", None)) is not None:
        assert torch.equal(embedding[row] == 0, reference.get_input_embeddings().weight[row] == 0)


def test_llama_tiny_has_llama_tinys_deviations(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = written(tmp_path / "made", config_of(architecture_of("llama-tiny")))
    drawn = load_file(folder / "model.safetensors")
    deviations = {name: tensor.std().item() for name, tensor in drawn.items()}
    assert deviations.pop("lm_head.weight") == pytest.approx(3.0 / 384**0.5, rel=0.01)  # logits of deviation 3
    assert deviations.pop("model.embed_tokens.weight") == pytest.approx(0.2, rel=0.01)
    assert {round(deviation, 3) for deviation in deviations.values()} == {0.02, 0.0}
    assert {tensor.mean().item() for name, tensor in drawn.items() if "norm" in name} == {1.0}
    # No two blocks are the same, and none repeats within itself.
    sample = [tensor.flatten()[:1000].tolist() for name, tensor in drawn.items() if "norm" not in name]
    assert len({value for values in sample for value in values}) > 0.99 * 1000 * len(sample)


def test_the_bytes_are_the_same_for_any_number_of_threads_and_others_for_another_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BLOCK", 10_000)
    given = config("qwen2", tie_word_embeddings=True)

    def content(name: str, threads: int, seed: int) -> bytes:
        monkeypatch.setattr(weights, "ThreadPoolExecutor", lambda: ThreadPoolExecutor(threads))
        return (written(tmp_path / name, given, dtype="bfloat16", seed=seed) / "model.safetensors").read_bytes()

    one, two, five = (content(f"{threads}", threads, 0) for threads in (1, 2, 5))
    assert one == two == five != content("other", 2, 1)


@pytest.mark.parametrize(
    ("model_type", "changes", "shard_size"),
    [
        ("llama", {}, "1GB"),
        ("llama", {}, "100KB"),
        ("qwen2", {"tie_word_embeddings": True}, "100KB"),
        ("qwen3_moe", FEW_EXPERTS, "1GB"),
    ],
)
def test_the_files_are_those_of_save_pretrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, changes: dict[str, Any], shard_size: str
) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(weights, "SHARD_SIZE", shard_size)
    given = config(model_type, **changes)
    ours, theirs = written(tmp_path / "ours", given, dtype="bfloat16"), tmp_path / "theirs"
    AutoModelForCausalLM.from_config(given, dtype="bfloat16").save_pretrained(theirs, max_shard_size=shard_size)
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    for name in ("generation_config.json", "model.safetensors.index.json"):
        if (theirs / name).exists():
            assert (ours / name).read_text() == (theirs / name).read_text()
    for path in theirs.glob("*.safetensors"):
        assert (ours / path.name).stat().st_size == path.stat().st_size
        with safe_open(ours / path.name, "pt") as mine, safe_open(path, "pt") as other:
            assert mine.metadata() == other.metadata() == {"format": "pt"}
            names = set(other.keys())
            assert set(mine.keys()) == names
            assert all(mine.get_tensor(name).shape == other.get_tensor(name).shape for name in names)


def test_without_room_on_the_disk_nothing_is_written_and_the_run_says_what_to_set(
    compose: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFUBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    asked = ("model=llama-3.2-3b", "framework.random_weights=disk", "precision=bf16", "tracking=none", "hardware=cpu")
    experiment = compose(*asked, "hardware.peak_flops_per_second=1e12")
    run(experiment, tmp_path, None, {}, QUIET)
    result = json.loads((tmp_path / "result.json").read_text())
    # 3,212,749,824 weights of 2 bytes
    assert (result["status"], result["reason"]) == (
        "unsupported",
        "model llama-3.2-3b: its random weights take 6.4 GB, and 1.0 GB are free at "
        f"{tmp_path}/cache/models; free some, or set MFUBENCH_CACHE to a folder on a larger disk",
    )
    assert list((tmp_path / "cache").glob("models/*")) == []


WRITE = """
import json, sys
from pathlib import Path
from rich.console import Console
from mfubench.config import Data, Model
from mfubench.workload import prepare_workload
model = Model(name="small", hub_id=None, revision=None, weights="random", architecture=json.loads(sys.argv[2]))
asked = {"sequence_length": 16, "num_samples": 2, "seed": 0, "weights_on_disk": True, "dtype": "bfloat16"}
prepare_workload(model, Data(name="synthetic"), **asked, folder=Path(sys.argv[1]), console=Console(stderr=True))
"""


def test_processes_that_are_ended_while_they_draw_leave_nothing_that_a_later_one_uses_or_keeps(tmp_path: Path) -> None:
    large = json.dumps({**TINY, "vocab_size": 1_000_000})  # 0.4 GB
    left = {signal.SIGKILL: 1, signal.SIGINT: 0}
    started = {
        sent: subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path / sent.name), large], stderr=subprocess.DEVNULL
        )
        for sent in left
    }
    drawing, deadline = set(started), time.monotonic() + 60
    while drawing:
        for sent in [sent for sent in drawing if list((tmp_path / sent.name).glob("models/.making-*/*/*.safetensors"))]:
            started[sent].send_signal(sent)
            drawing.remove(sent)
        assert all(started[sent].poll() is None for sent in drawing) and time.monotonic() < deadline
        time.sleep(0.001)
    for sent, process in started.items():
        models = tmp_path / sent.name / "models"
        assert process.wait(60) != 0
        assert [path.name[:8] for path in models.iterdir()] == left[sent] * [".making-"]
        folder = prepared(tmp_path / sent.name)
        assert list(models.iterdir()) == [folder]


def test_a_bar_is_shown_on_a_terminal_only_and_where_the_weights_are_is_said_once(tmp_path: Path) -> None:
    def shown(folder: Path, terminal: bool) -> tuple[Path, str]:
        screen = StringIO()
        return prepared(folder, Console(file=screen, force_terminal=terminal, width=200)), screen.getvalue()

    folder, on_a_terminal = shown(tmp_path / "a folder", True)
    assert "of random weights" in on_a_terminal and "100%" in on_a_terminal
    other, in_a_log = shown(tmp_path / "another", False)
    # 2 · 8192·96 and 2 layers of 2·96² + 2·96·32 + 3·96·192 + 2·96, a norm of 96; 2 bytes each
    assert in_a_log == f"random weights, 0.00347 GB, are kept for later runs; to delete them: rm -r {other}\n"
    assert f"rm -r '{folder}'" in on_a_terminal
    assert shown(tmp_path / "another", False) == (other, "")


def test_weights_that_were_drawn_in_another_way_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = prepared(tmp_path)
    monkeypatch.setattr(workload, "DRAWING", workload.DRAWING + 1)
    assert prepared(tmp_path) != before
