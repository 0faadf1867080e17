"""Which of Liger's switches are in effect in a model, as the probe names its kernels and the records' reader takes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mfubench.probe.liger import find_liger_kernels
from mfubench.records.reading import RankRecord
from mfubench.records.work_check import liger_switches

SWITCHES = ("rope", "rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy")
TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EXPERTS = {"mixtral": {"num_local_experts": 4}, "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16}}


@dataclass(frozen=True)
class Patching:
    """Liger's own two ways of patching models of one type, and models of that type."""

    model_type: str

    def model(self) -> torch.nn.Module:
        """A new one."""
        from transformers import AutoConfig, AutoModelForCausalLM

        sizes = TINY | EXPERTS.get(self.model_type, {})
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(self.model_type, **sizes))

    def classes(self, *switches: str) -> None:
        """Models of this type that are made later."""
        self._apply(switches, {})

    def instance(self, model: torch.nn.Module, *switches: str) -> None:
        """A model that is there."""
        self._apply(switches, {"model": model})

    def _apply(self, switches: tuple[str, ...], more: dict[str, Any]) -> None:
        from liger_kernel.transformers import monkey_patch

        gated = "geglu" if self.model_type.startswith("gemma") else "swiglu"
        chosen = {gated if name == "swiglu" else name: name in switches for name in SWITCHES}
        getattr(monkey_patch, f"apply_liger_kernel_to_{self.model_type}")(**chosen, **more)


@pytest.fixture
def patching(request: pytest.FixtureRequest) -> Iterator[Patching]:
    """Of the model type that is the parameter; everything is as it was afterwards."""
    modeling = importlib.import_module(f"transformers.models.{request.param}.modeling_{request.param}")
    module_was, cross_entropy = dict(vars(modeling)), F.cross_entropy
    forwards = {
        kind: vars(kind)["forward"] for kind in module_was.values() if "forward" in getattr(kind, "__dict__", {})
    }
    yield Patching(request.param)
    vars(modeling).update(module_was)
    F.cross_entropy = cross_entropy
    for kind, forward in forwards.items():
        kind.forward = forward


LLAMA = pytest.mark.parametrize("patching", ["llama"], indirect=True)


@LLAMA
@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_alone_is_seen_alone_however_it_was_applied(patching: Patching, switch: str) -> None:
    there = patching.model()
    assert find_liger_kernels(there) == []
    patching.instance(there, switch)
    patching.classes(switch)
    for model in (there, patching.model()):
        assert liger_switches(find_liger_kernels(model)) == {switch}
    # Instances and classes are patched differently, and the same kernels run.
    assert find_liger_kernels(there) == find_liger_kernels(patching.model())


@pytest.mark.parametrize(
    "patching", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "mixtral", "qwen3_moe"], indirect=True
)
def test_all_switches_of_every_kind_of_model_are_seen_in_the_adapted_model_too(patching: Patching) -> None:
    from peft import LoraConfig, get_peft_model

    model = patching.model()
    patching.instance(model, "rope", "rms_norm", "swiglu", "fused_linear_cross_entropy")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    assert liger_switches(find_liger_kernels(adapted)) == {"rope", "rms_norm", "swiglu", "fused_linear_cross_entropy"}


@LLAMA
def test_the_fused_loss_is_seen_under_the_wrapping_of_mixed_precision(patching: Patching) -> None:
    from accelerate.utils import convert_outputs_to_fp32

    model = patching.model()
    patching.instance(model, "fused_linear_cross_entropy")
    # As Accelerator.prepare_model does it.
    autocast = torch.autocast("cpu", torch.bfloat16)
    model.forward = MethodType(autocast(model.forward.__func__), model)
    model.forward = MethodType(convert_outputs_to_fp32(model.forward.__func__), model)
    assert find_liger_kernels(model) == ["liger_kernel.transformers.model.llama.lce_forward"]


@LLAMA
def test_what_was_patched_for_another_kind_of_model_does_not_count(patching: Patching) -> None:
    patching.classes("rope", "rms_norm", "swiglu", "fused_linear_cross_entropy")
    assert find_liger_kernels(Patching("qwen3").model()) == []


@LLAMA
def test_classes_patched_after_the_model_was_made_are_not_in_it(patching: Patching) -> None:
    model = patching.model()
    patching.classes("rms_norm", "swiglu")
    assert find_liger_kernels(model) == []


@pytest.mark.parametrize("patching", ["mistral"], indirect=True)
def test_a_switch_that_patches_what_no_code_calls_is_not_seen(patching: Patching) -> None:
    model = patching.model()
    patching.instance(model, "cross_entropy")  # a class that transformers 5's Mistral does not use
    assert find_liger_kernels(model) == []


def test_kernels_that_really_run_are_in_the_records(
    tmp_path: Path, run_several: Callable[..., dict[str, RankRecord]]
) -> None:
    scenarios = {"loss": "cross_entropy", "fused loss": "rope fused_linear_cross_entropy"}
    records = run_several("liger_llama.py", scenarios, tmp_path)
    for name, record in records.items():
        assert liger_switches(record.work["liger_kernels"]) == set(scenarios[name].split())
        assert (len(record.step_times_s), record.errors) == (2, ())
