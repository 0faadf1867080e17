from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from mfubench.explain.categories import CATEGORIES, VIEWS, short_name
from mfubench.explain.exclusive import Span, by_category, exclusive, innermost
from mfubench.explain.kernels import KERNELS_FILE, kind
from mfubench.workload.architecture import config_of

DATA = Path(__file__).parent.parent / "data" / "kernels.csv"
KERNELS = list(csv.DictReader(DATA.open()))
# The finer categories of the file; one of softmax, triton and the dropped ones has a test of its own.
COARSER = {
    "gemm": "matmul",
    "norm": "normalisation",
    "rope": "rotary",
    "quantization": "quantisation",
    **dict.fromkeys(("activation", "reduction", "dropout"), "elementwise"),
    **dict.fromkeys(("embedding", "moe", "memcpy", "memset"), "copy"),
    **{name: name for name in ("attention", "elementwise", "loss", "optimizer", "communication", "copy")},
}
LOG_SOFTMAX = (
    "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, c10::BFloat16, float, float, {}>(float*, int)"
)
ADD = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul> >(int)"


def category(name: str, operator: str = "", phase: str = "") -> str | None:
    found = kind(name, operator, phase)
    return None if found is None else found.category


@pytest.mark.parametrize("finer", sorted(COARSER))
def test_every_kernel_of_the_list_has_its_category(finer: str) -> None:
    names = [row["name"] for row in KERNELS if row["category"] == finer]
    assert names
    assert {name: category(name) for name in names} == dict.fromkeys(names, COARSER[finer])


def test_the_list_has_no_category_without_a_test() -> None:
    assert {row["category"] for row in KERNELS} - {*COARSER} == {"softmax", "triton", "overhead", "annotation"}


@pytest.mark.parametrize("finer", ["overhead", "annotation"])
def test_annotations_and_the_profilers_records_are_no_work(finer: str) -> None:
    assert {kind(row["name"]) for row in KERNELS if row["category"] == finer} == {None}


def test_softmax_is_the_losss_if_logarithmic_and_else_attentions() -> None:
    assert {category(row["name"]) for row in KERNELS if row["category"] == "softmax"} == {"attention", "loss"}
    assert category(LOG_SOFTMAX.format("at::native::LogSoftMaxForwardEpilogue")) == "loss"
    assert category(LOG_SOFTMAX.format("at::native::SoftMaxForwardEpilogue")) == "attention"
    assert category("void softmax_warp_forward<float, float, float, 9, false, true>(float*, int)") == "attention"


def test_the_operator_decides_about_a_softmax_whose_name_is_cut_short() -> None:
    short = "void at::native::<unnamed>::cunn_SoftMaxForward<(int)8, c10::BFloat16, float,..."
    assert category(short, "aten::_log_softmax") == "loss"
    assert category(short, "aten::_softmax") == "attention"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", "normalisation"),
        ("triton_red_fused_native_layer_norm_7", "normalisation"),
        ("triton_red_fused__to_copy_mul_sum_1", "elementwise"),
        ("triton_poi_fused_add_mul_0", "elementwise"),
        ("triton_poi_fused_addmm_relu_1", "elementwise"),  # beside a matmul of cuBLAS
        ("triton_tem_fused_addmm_relu_1", "matmul"),
        ("triton_tem_fused_flex_attention_2", "attention"),
        ("triton_red_fused__log_softmax_nll_loss_forward_3", "loss"),
        ("triton_poi_fused_cat_cos_mul_sin_4", "rotary"),
    ],
)
def test_a_compiled_kernel_is_read_by_the_operations_in_its_name(name: str, expected: str) -> None:
    assert category(name) == expected


def test_a_name_that_no_pattern_knows_is_other_and_keeps_its_name() -> None:
    found = kind("my_own_kernel<128>")
    assert found is not None
    assert (found.category, found.name) == ("other", "my_own_kernel<128>")
    assert category("my_own_kernel<128>", "aten::mm") == "matmul"


def test_what_the_optimizer_computes_step_by_step_is_the_optimizers() -> None:
    assert (category(ADD), category(ADD, phase="optimizer")) == ("elementwise", "optimizer")
    assert category("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", phase="optimizer") == "matmul"


def test_only_kernels_and_collectives_keep_the_compute_units_busy() -> None:
    names = ("ncclDevKernel_AllGather_RING_LL(4096)", "Memcpy HtoD (Pinned -> Device)", "chunk_cat_cuda_kernel<float>")
    assert [found and found.rank for found in map(kind, names)] == ["collective", "transfer", "compute"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (ADD, "vectorized_elementwise_kernel<CUDAFunctor_add>"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, float>(float*)", "cunn_SoftMaxForward"),
        ("triton_red_fused_native_layer_norm_7", "triton_red_fused_native_layer_norm"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT"),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pinned -> Device)"),
        ("aten::mm", "aten::mm"),
    ],
)
def test_a_kernels_short_name_says_what_it_does(name: str, shown: str) -> None:
    assert short_name(name) == shown


def test_the_patterns_use_the_words_of_the_waterfall() -> None:
    assert set(CATEGORIES) - {"idle", "other"} == {kind(row["name"]).category for row in KERNELS if kind(row["name"])}  # type: ignore[union-attr]
    assert KERNELS_FILE.name == "kernels.yaml"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_operator_of_a_training_on_a_cpu_has_a_category(compose, attention: str, checkpointing: bool) -> None:  # type: ignore[no-untyped-def]
    spans = _profiled_step(config_of(compose().model.architecture), attention, checkpointing)
    found = exclusive(innermost(spans), min(span.start for span in spans), max(span.end for span in spans))
    others = {kind.name for kind in found.kinds if kind.category == "other"}
    assert others == {VIEWS}
    assert {"matmul", "attention", "elementwise", "rotary", "loss", "optimizer", "copy"} <= {*by_category(found.kinds)}


def _profiled_step(config, attention: str, checkpointing: bool) -> list[Span]:  # type: ignore[no-untyped-def]
    """The operators of one step of a small LoRA training of this architecture."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model = get_peft_model(model, LoraConfig(lora_dropout=0.05, target_modules=["q_proj", "up_proj"]))
    model.base_model.lm_head.weight.requires_grad_(True)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=attention == "sdpa")
    tokens = torch.randint(0, config.vocab_size, (2, 64))

    def step() -> None:
        model(input_ids=tokens, labels=tokens, attention_mask=torch.ones_like(tokens)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    with torch.autograd.profiler.profile(use_kineto=True) as profiler:
        step()
    events = [(event, kind(event.name())) for event in profiler.kineto_results.events()]
    return [Span(e.start_ns(), e.start_ns() + e.duration_ns(), found) for e, found in events if found is not None]
