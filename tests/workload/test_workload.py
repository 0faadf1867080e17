"""The workload: the tokenizer, the samples and the model's folder, read by the libraries that frameworks read them with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tokenizers import Tokenizer

from mfubench import config
from mfubench.workload import NoRoom, Workload, prepare_workload
from mfubench.workload.architecture import config_of
from mfubench.workload.tokenizer import SPECIAL_TOKENS, SYNTHETIC_WORDS, vocabulary, write_tokenizer

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}
SYNTHETIC = config.Data(name="synthetic")


def small(**changes: Any) -> config.Model:
    """A model of a few thousand weights."""
    return config.Model(name="small", hub_id=None, revision=None, weights="random", architecture={**SMALL, **changes})


def prepared(folder: Path, model: config.Model | None = None, **changes: Any) -> Workload:
    """A workload of a few short samples in the cache `folder`."""
    asked: dict[str, Any] = {"sequence_length": 64, "num_samples": 20, "seed": 0}
    asked |= {"weights_on_disk": False, "dtype": "float32"}
    return prepare_workload(
        model or small(), SYNTHETIC, **{**asked, **changes}, folder=folder, console=Console(quiet=True)
    )


def lines(path: str | None) -> list[dict[str, Any]]:
    """A JSONL file's content."""
    assert path is not None
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The synthetic tokenizer as a framework loads it."""
    from transformers import AutoTokenizer

    folder = prepared(tmp_path_factory.mktemp("tokenizer")).tokenizer_path
    return AutoTokenizer.from_pretrained(folder)


def test_the_tokenizer_fits_a_vocabulary_of_8192_and_pads_with_a_token_of_its_own(tokenizer: Any) -> None:
    assert len(tokenizer) == len(vocabulary()) == 256 + 80 + 80 + 80 * 80 + 8
    assert len(tokenizer) <= 8192
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_word_behind_a_space_is_one_token(tokenizer: Any) -> None:
    text = " " + " ".join(SYNTHETIC_WORDS)
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == len(SYNTHETIC_WORDS)


def test_any_text_round_trips(tokenizer: Any) -> None:
    text = "It was the best of times,\n\tit was the worst: naïve façade, 漢字, \x00\x7f and 🤖! " + "".join(
        map(chr, range(256))
    )
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_transformers_reads_the_same_tokens_from_the_files_as_the_tokenizers_library(
    tokenizer: Any, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    direct = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "babe dido, and some English <|eot_id|>"
    assert direct.encode(text).ids == tokenizer(text)["input_ids"]


def test_the_chat_template_is_that_of_llama_3(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "babe"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nbabe<|eot_id|>"
    )
    identifiers = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    special = {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    assert sum(identifier in special for identifier in identifiers) == 7  # each is one token, none is spelled out


@pytest.mark.parametrize("sequence_length", [16, 300])
def test_every_sample_is_longer_than_a_sequence_in_both_shapes(
    tokenizer: Any, tmp_path: Path, sequence_length: int
) -> None:
    workload = prepared(tmp_path, sequence_length=sequence_length)
    messages, alpaca = lines(workload.messages_path), lines(workload.alpaca_path)
    assert len(messages) == len(alpaca) == workload.num_samples == 20
    for chat, instruction in zip(messages, alpaca, strict=True):
        templated = tokenizer.apply_chat_template(chat["messages"], tokenize=True, return_dict=True)["input_ids"]
        answer = tokenizer(instruction["output"], add_special_tokens=False)["input_ids"]
        assert sequence_length < len(answer) < len(templated) < sequence_length + 40  # about one token a word
        assert [turn["content"] for turn in chat["messages"]] == [instruction["instruction"], instruction["output"]]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    here, there, other = (
        prepared(tmp_path / name, seed=seed) for name, seed in (("here", 1), ("there", 1), ("there", 2))
    )
    for path in ("messages_path", "alpaca_path"):
        first, same, different = (Path(getattr(workload, path)).read_bytes() for workload in (here, there, other))
        assert first == same != different


def test_weights_on_disk_load_and_are_the_same_whenever_they_are_made(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    asked: dict[str, Any] = {"weights_on_disk": True, "dtype": "bfloat16"}
    one, two, other = (
        Path(prepared(tmp_path / name, seed=seed, **asked).model_path) for name, seed in (("a", 1), ("b", 1), ("b", 2))
    )
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert all((two / path.name).read_bytes() == path.read_bytes() for path in one.iterdir())
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()

    loaded: Any = AutoModelForCausalLM.from_pretrained(one, dtype="auto", output_loading_info=True)
    model, loading = loaded
    assert not any(loading.values())  # no weight is missing, unexpected or of another shape
    # embedding and head 2 · 8192·16; q and o 2 · 16·16; k and v 2 · 16·8; MLP 3 · 16·32; norms 3 · 16
    assert sum(p.numel() for p in model.parameters()) == 2 * 8192 * 16 + 2 * 256 + 2 * 128 + 3 * 512 + 48
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (model.config.vocab_size, model.config.num_key_value_heads) == (8192, 1)
    assert model.config.eos_token_id == vocabulary()["<|eot_id|>"]


def test_without_weights_on_disk_there_are_none(tmp_path: Path) -> None:
    names = {path.name for path in Path(prepared(tmp_path).model_path).iterdir()}
    assert names == {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


PREPARE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
from tests.workload.test_workload import prepared
print(json.dumps({**asdict(prepared(Path(sys.argv[2]), weights_on_disk=True)), "modules": list(sys.modules)}))
"""


def in_a_process(folder: Path) -> subprocess.Popen[str]:
    """A process that prepares the workload and prints it, with the names of all modules it imported."""
    root = [str(Path(__file__).parents[2])]
    command = [sys.executable, "-c", PREPARE, json.dumps(root), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What such a process prints last: libraries that transformers imports print too."""
    said = json.loads(process.communicate()[0].splitlines()[-1])
    assert isinstance(said, dict)
    return said


def test_processes_that_prepare_at_once_all_get_one_workload_and_a_later_one_imports_no_torch(tmp_path: Path) -> None:
    at_once = [in_a_process(tmp_path) for _ in range(2)]
    first, second = (said_by(process) for process in at_once)
    third = said_by(in_a_process(tmp_path))
    assert "torch" in first.pop("modules") and "torch" in second.pop("modules")  # neither found it made
    assert not {"torch", "transformers"} & set(third.pop("modules"))
    assert first == second == third
    assert [len(list((tmp_path / kind).iterdir())) for kind in ("models", "data")] == [1, 1]  # nothing is left over
    assert len(lines(first["messages_path"])) == 20
    assert (Path(first["model_path"]) / "model.safetensors").is_file()


def test_nested_settings_keep_their_digest(tmp_path: Path) -> None:
    """transformers completes rope_scaling in place; a second call in the same process must still find the first's."""
    scaling = {"rope_type": "linear", "factor": 2.0}
    model = small(rope_scaling=scaling, rope_theta=5e5)
    assert prepared(tmp_path, model) == prepared(tmp_path, model)
    assert scaling == {"rope_type": "linear", "factor": 2.0}


def test_a_model_from_the_hub_is_left_to_the_framework(tmp_path: Path) -> None:
    model = config.Model(name="m", hub_id="some/model", revision="abc", weights="hub", architecture=SMALL)
    workload = prepared(tmp_path, model)
    assert (workload.model_path, workload.tokenizer_path, workload.revision) == ("some/model", "some/model", "abc")
    assert not (tmp_path / "models").exists()


HUGE = {"num_hidden_layers": 100, "hidden_size": 65536, "intermediate_size": 262144}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: small(model_type="lama"), "did you mean llama"),
        (lambda: small(model_type="vit"), "no causal language model of that type"),
        (
            lambda: small(num_key_value_head=2),
            "num_key_value_head: no setting of llama; did you mean num_key_value_heads",
        ),
        (lambda: small(hidden_size="big"), "can't build or run this llama: .*hidden_size"),
        (lambda: small(vocab_size=1000), "expected 6824 or more"),
    ],
)
def test_a_model_that_cannot_be_made_is_a_value_error_and_leaves_nothing(
    tmp_path: Path, model: Callable[[], config.Model], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, model(), weights_on_disk=True)
    assert not [path for path in tmp_path.glob("*/*")]


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("gemma3_text", "sliding_window_pattern", 6),
        ("gemma3n_text", "eos_token_id", [1, 106]),
        ("gemma4_text", "global_head_dim", 512),
        ("falcon_h1", "time_step_min", 0.001),
        ("qwen3_5_text", "mtp_num_hidden_layers", 1),
        ("glm4_moe", "num_nextn_predict_layers", 1),
    ],
)
def test_keys_of_published_files_that_a_config_class_only_reads_or_ignores_are_no_slips(
    model_type: str, key: str, value: Any
) -> None:
    assert config_of({"model_type": model_type, key: value}).model_type == model_type


@pytest.mark.parametrize("key", ["n_hidden_layers", "hidden_layers", "hiden_size", "rope_parameter"])
def test_slips_of_a_letter_or_a_word_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: no setting of llama; did you mean"):
        config_of({"model_type": "llama", key: 4})


def test_weights_that_do_not_fit_on_the_disk_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="GB are free"):
        prepared(tmp_path, small(**HUGE), weights_on_disk=True)
    assert not [path for path in tmp_path.glob("*/*")]


@pytest.mark.parametrize("weights_on_disk", [False, True])
def test_a_dry_run_knows_where_all_will_lie_and_writes_nothing(tmp_path: Path, weights_on_disk: bool) -> None:
    located = prepared(tmp_path, weights_on_disk=weights_on_disk, dry=True)
    assert not list(tmp_path.iterdir())
    assert located == prepared(tmp_path, weights_on_disk=weights_on_disk)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "lama"}, "did you mean llama"), ({"vocab_size": 1000}, "expected 6824 or more")],
)
def test_a_dry_run_of_a_model_that_cannot_be_made_says_so(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, small(**change), dry=True)
    assert not list(tmp_path.iterdir())
