"""The support matrix: what a framework's YAML says, and what it doesn't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mfubench.config import Experiment, Framework, Mode
from mfubench.config.compose import GROUPS
from mfubench.config.defaults import defaults
from mfubench.files.paths import CONF
from mfubench.hardware.machine import Machine
from mfubench.plan import engines, support
from mfubench.plan.native import Place, make_plan
from mfubench.workload import Workload

FRAMEWORKS = sorted(path.stem for path in (CONF / "framework").glob("*.yaml"))
# A value other than the default of every setting that a framework must obey.
OTHER = {
    "batch_size": 3,
    "sequence_length": 128,
    "gradient_accumulation_steps": 2,
    "precision": "fp32",
    "attention": "eager",
    "liger_kernel": True,
    "torch_compile": True,
    "optimizer": "sgd",
    "seed": 7,
    "framework.random_weights": "device",
    "mode": "lora",
    "mode.rank": 4,
    "mode.alpha": 32,
    "mode.dropout": 0.1,
    "mode.target_modules": "[q_proj]",
    "mode.use_rslora": "true",
    "mode.use_dora": "true",
    "mode.modules_to_save": "[embed_tokens]",
    "mode.quantization": "fp4",
    "mode.double_quantization": "false",
    "liger.rope": "false",
    "liger.rms_norm": "false",
    "liger.swiglu": "false",
    "liger.cross_entropy": "true",
    "liger.fused_linear_cross_entropy": "false",
    "parallelism": "ddp",
    "gradient_checkpointing": "reentrant",
    "data": "alpaca",
    "data.padding": "longest",
}
# What must be chosen for a setting to mean anything.
NEEDED = {"mode": ("mode=lora",), "liger": ("liger_kernel=true",), "data": ("data=alpaca",)}
NEEDED |= dict.fromkeys(("mode.use_rslora", "mode.use_dora", "mode.modules_to_save"), ("mode=lora",))
NEEDED |= dict.fromkeys(("mode.quantization", "mode.double_quantization"), ("mode=qlora",))
ENGINES = {
    name: [
        entry["name"]
        for entry in yaml.safe_load((CONF / "framework" / f"{name}.yaml").read_text()).get("engines") or []
    ]
    for name in FRAMEWORKS
}
STARTED = [(framework, engine) for framework in FRAMEWORKS for engine in ENGINES[framework] or [None]]
TINY = Framework(
    name="tiny",
    python=None,
    command=["tiny", "${run.config_path}"],
    environment={},
    config_file="tiny.yaml",
    random_weights="disk",
    loss="mean",
    base={"batch": "${batch_size}"},
    when={"mode": {"full": {}, "lora": {"r": "${mode.rank}"}}, "liger_kernel": {False: {}, True: {"liger": True}}},
    unsupported=[{"liger_kernel": True, "device": ["cpu"], "because": "it needs a GPU"}],
    native={},
)


@pytest.fixture
def tiny(compose: Callable[..., Experiment]) -> Callable[..., Experiment]:
    return lambda *overrides: replace(compose(*overrides), framework=TINY)


def resolved(experiment: Experiment, device: str) -> str:
    """The precision that `auto` stands for on the device."""
    return experiment.precision.replace("auto", "bf16" if device == "cuda" else "fp32")


def verdict_on(experiment: Experiment, device: str = "cuda", engine: str | None = None) -> str | None:
    """The reason why the experiment is unsupported; None when it isn't."""
    values = support.values_of(experiment, device, resolved(experiment, device), engine)
    try:
        support.check_supported(experiment, values, defaults(experiment.mode.name))
    except support.Unsupported as reason:
        return str(reason)
    return None


def test_what_is_mapped_is_supported(tiny: Callable[..., Experiment]) -> None:
    assert verdict_on(tiny()) is None
    assert verdict_on(tiny("batch_size=8", "mode=lora", "mode.rank=4", "liger_kernel=true")) is None


def test_a_value_without_a_branch_is_unsupported_and_the_others_are_named(tiny: Callable[..., Experiment]) -> None:
    assert verdict_on(tiny("mode=qlora")) == "tiny does not support mode=qlora; it supports full, lora"


def test_a_framework_without_a_word_for_4_bits_does_not_support_qlora(compose: Callable[..., Experiment]) -> None:
    asked = compose("framework=llmforge", "mode=qlora")
    assert verdict_on(asked) == "llmforge does not support mode=qlora; it supports full, lora"
    sharded = "would have to be stored as bfloat16 to be sharded"
    for parallelism, reason in (("zero2", None), ("ddp", None), ("zero3", sharded), ("fsdp2", sharded)):
        verdict = verdict_on(compose("mode=qlora", f"parallelism={parallelism}"))
        assert verdict is None if reason is None else reason in (verdict or "")


def test_a_setting_that_is_mapped_nowhere_can_only_be_its_default(tiny: Callable[..., Experiment]) -> None:
    assert verdict_on(tiny("sequence_length=256")) is None
    assert verdict_on(tiny("sequence_length=128")) == "tiny has no way to set sequence_length=128; it runs with 256"
    assert (
        verdict_on(tiny("mode=lora", "mode.dropout=0.1"))
        == "tiny has no way to set mode.dropout=0.1; it runs with 0.05"
    )


def test_a_group_that_is_mapped_nowhere_can_only_have_its_default(tiny: Callable[..., Experiment]) -> None:
    asked = tiny("gradient_checkpointing=reentrant")
    assert verdict_on(asked) == "tiny has no way to set gradient_checkpointing=reentrant; it runs with none"
    assert "parallelism=ddp" in (verdict_on(tiny("parallelism=ddp")) or "")
    started = replace(TINY, command=["${run.python}", "${parallelism.launcher}", "tiny"])
    assert verdict_on(replace(tiny("parallelism=ddp"), framework=started)) is None


def test_a_rule_under_unsupported_gives_its_reason(tiny: Callable[..., Experiment]) -> None:
    assert verdict_on(tiny("liger_kernel=true"), "cpu") == "tiny with liger_kernel=true, device=cpu: it needs a GPU"
    assert verdict_on(tiny("liger_kernel=true"), "cuda") is None


def test_a_setting_of_another_mode_is_noted_not_refused(tiny: Callable[..., Experiment]) -> None:
    experiment = tiny("mode=full", "mode.rank=4")
    assert verdict_on(experiment) is None
    assert list(support.inapplicable(experiment, defaults("full"))) == [("mode.rank", "4", "mode=full")]
    experiment = tiny("liger.rope=false")
    assert verdict_on(experiment) is None
    assert list(support.inapplicable(experiment, defaults("full"))) == [("liger.rope", "false", "liger_kernel=false")]


def test_a_fused_loss_that_bypasses_the_adapter_on_lm_head_is_unsupported(compose: Callable[..., Experiment]) -> None:
    asked = ("mode=lora", "mode.target_modules=[q_proj,lm_head]", "liger_kernel=true")
    assert "its adapter would never be trained" in (verdict_on(compose(*asked)) or "")
    trained = ("liger.fused_linear_cross_entropy=false", "liger.cross_entropy=true")
    assert verdict_on(compose(*asked, *trained)) is None
    assert verdict_on(compose(*asked[:2])) is None


def test_a_kernel_that_liger_would_not_bring_in_is_unsupported(compose: Callable[..., Experiment]) -> None:
    asked = ("liger_kernel=true", "liger.fused_linear_cross_entropy=false", "liger.cross_entropy=true")
    assert "the kernel would never run" in (verdict_on(compose(*asked, "model=mistral-7b")) or "")
    assert verdict_on(compose(*asked, "model=llama-3.1-8b")) is None
    assert verdict_on(compose("liger_kernel=true", "model=mistral-7b")) is None


def test_a_revision_that_a_framework_cannot_be_told_is_unsupported(tiny: Callable[..., Experiment]) -> None:
    asked = tiny("model=llama-3.1-8b", "model.weights=hub", "model.revision=abc")
    assert verdict_on(asked) == "tiny has no way to set model.revision=abc"
    told = replace(TINY, base={**TINY.base, "revision": "${workload.revision}"})
    assert verdict_on(replace(asked, framework=told)) is None


def test_real_data_need_a_framework_that_can_be_told_how_to_pad(tiny: Callable[..., Experiment]) -> None:
    reads_data = {**TINY.when, "data": {"synthetic": {}, "alpaca": {}}}
    experiment = replace(tiny("data=alpaca"), framework=replace(TINY, when=reads_data))
    assert verdict_on(experiment) == "tiny has no way to set data.padding=max_length; it runs with its own"
    padded = replace(TINY, when=reads_data, base={**TINY.base, "pad": "${data.padding}"})
    assert verdict_on(replace(experiment, framework=padded)) is None


def test_branches_are_laid_over_the_base_in_order_and_the_user_wins(tiny: Callable[..., Experiment]) -> None:
    framework = replace(
        TINY,
        base={"a": 1, "b": 1},
        when={"mode": {"full": {"a": 2, "when": {"seed": {0: {"a": 3}}}}}, "precision": {"fp32": {"b": 2}}},
        native={"b": 9},
    )
    layers = support.layers(framework, support.values_of(tiny(), "cpu", "fp32"))
    assert layers == [{"a": 1, "b": 1}, {"a": 2}, {"a": 3}, {"b": 2}, {"b": 9}]


def test_more_ranks_than_devices_are_unsupported(compose: Callable[..., Experiment]) -> None:
    machine = Machine("cuda", "NVIDIA A100-SXM4-80GB", 4, 16, True, "580", 80 * 2**30)
    support.check_devices(compose("parallelism=ddp", "parallelism.num_devices=4").parallelism, machine)
    with pytest.raises(support.Unsupported, match=r"num_devices=8 on a machine that has 4 GPU"):
        support.check_devices(compose("parallelism=ddp", "parallelism.num_devices=8").parallelism, machine)


def test_weights_that_do_not_fit_into_a_cpus_memory_are_unsupported() -> None:
    machine = Machine("cpu", "A CPU", 2, 2, True, None, 24 * 2**30)
    full, qlora = Mode(name="full"), Mode(name="qlora", rank=8, quantization="nf4")
    assert support.too_large(8_030_261_248, full, "bf16", machine) is None
    assert support.too_large(8_030_261_248, qlora, "fp32", machine) is None
    reason = "the weights alone take 30 GiB, and this machine has 24 GiB"
    assert support.too_large(8_030_261_248, full, "fp32", machine) == reason


@pytest.mark.sample(5)
@pytest.mark.parametrize(("framework", "engine"), STARTED)
@pytest.mark.parametrize("setting", OTHER)
def test_no_framework_ignores_a_setting(
    compose: Callable[..., Experiment], framework: str, engine: str | None, setting: str
) -> None:
    """Another value either changes the native config, the command or the environment, or one of the two is refused."""
    needed = NEEDED.get(setting) or NEEDED.get(setting.partition(".")[0], ()) if "." in setting else ()
    chosen = (f"framework={framework}", *([f"framework.engine={engine}"] if engine else ()), *needed)

    def composed(*overrides: str) -> Experiment:
        experiment = compose(*chosen, *overrides)
        return replace(experiment, framework=engines.choose(experiment.framework, lambda _: True)[0])

    before, after = composed(), composed(f"{setting}={OTHER[setting]}")
    if verdict_on(before, engine=engine) is None and verdict_on(after, engine=engine) is None:

        def started(experiment: Experiment) -> tuple[object, ...]:
            samples = f"/w/{experiment.data.name}"
            workload = Workload("/w/model", "/w/tokenizer", f"{samples}/m.jsonl", f"{samples}/a.jsonl", 74, None)
            python = "/usr/bin/python3"
            place = Place(
                Path("/runs/1"), Path("/p/l"), Path("/p"), python, "cuda", resolved(experiment, "cuda"), 2, engine
            )
            made = make_plan(experiment, workload, place)
            return made.command, made.environment, made.config_text, made.other_files

        assert started(before) != started(after)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("group", ["mode", "parallelism", "gradient_checkpointing", "data"])
def test_every_framework_says_which_options_it_supports(
    compose: Callable[..., Experiment], framework: str, group: str
) -> None:
    assert group in GROUPS
    options = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert set(compose(f"framework={framework}").framework.when[group]) <= options
