"""The support matrix: what a framework's YAML says, and what it doesn't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mfubench import plan, support
from mfubench.config import Experiment, Framework
from mfubench.config.compose import GROUPS
from mfubench.config.defaults import defaults
from mfubench.hardware import Machine
from mfubench.paths import CONF
from mfubench.workload import Workload

FRAMEWORKS = sorted(path.stem for path in (CONF / "framework").glob("*.yaml"))
# A value other than the default of every setting that a framework must obey.
OTHER = {
    "batch_size": 3,
    "sequence_length": 128,
    "gradient_accumulation_steps": 2,
    "precision": "bf16",
    "attention": "eager",
    "liger_kernel": True,
    "torch_compile": True,
    "optimizer": "sgd",
    "seed": 7,
    "mode": "lora",
    "mode.rank": 4,
    "mode.alpha": 32,
    "mode.dropout": 0.1,
    "mode.target_modules": "[q_proj]",
    "parallelism": "ddp",
    "gradient_checkpointing": "reentrant",
}
TINY = Framework(
    name="tiny",
    python=None,
    command=["tiny", "${run.config_path}"],
    environment={},
    config_file="tiny.yaml",
    random_weights="device",
    base={"batch": "${batch_size}"},
    when={"mode": {"full": {}, "lora": {"r": "${mode.rank}"}}, "liger_kernel": {False: {}, True: {"liger": True}}},
    unsupported=[{"liger_kernel": True, "device": ["cpu"], "because": "it needs a GPU"}],
    native={},
)


@pytest.fixture
def tiny(compose: Callable[..., Experiment]) -> Callable[..., Experiment]:
    return lambda *overrides: replace(compose(*overrides), framework=TINY)


def verdict_on(experiment: Experiment, device: str = "cuda") -> str | None:
    """The reason why the experiment is unsupported; None when it isn't."""
    values = support.values_of(experiment, device, experiment.precision.replace("auto", "fp32"))
    try:
        support.check(experiment, values, defaults(experiment.mode.name))
    except support.Unsupported as reason:
        return str(reason)
    return None


def test_what_is_mapped_is_supported(tiny: Callable[..., Experiment]) -> None:
    assert verdict_on(tiny()) is None
    assert verdict_on(tiny("batch_size=8", "mode=lora", "mode.rank=4", "liger_kernel=true")) is None


def test_a_value_without_a_branch_is_unsupported_and_the_others_are_named(tiny: Callable[..., Experiment]) -> None:
    experiment = tiny()
    other = replace(experiment, mode=replace(experiment.mode, name="qlora"))
    values = support.values_of(other, "cuda", "fp32")
    with pytest.raises(support.Unsupported, match="does not support mode=qlora; it supports full, lora"):
        support.check(other, values, defaults("full"))


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
    assert list(support.inapplicable(experiment.mode, defaults("full"))) == [("mode.rank", "4")]


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
    support.check_memory(8_030_261_248, "bf16", machine)
    with pytest.raises(support.Unsupported, match="the weights alone take 30 GiB, and this machine has 24 GiB"):
        support.check_memory(8_030_261_248, "fp32", machine)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("setting", OTHER)
def test_no_framework_ignores_a_setting(compose: Callable[..., Experiment], framework: str, setting: str) -> None:
    """Another value either changes the native config, the command or the environment, or is refused."""
    chosen = (f"framework={framework}", *(("mode=lora",) if setting.startswith("mode.") else ()))
    before, after = compose(*chosen), compose(*chosen, f"{setting}={OTHER[setting]}")
    if verdict_on(after) is None:
        workload = Workload("/w/model", "/w/tokenizer", "/w/messages.jsonl", "/w/alpaca.jsonl", 74, None)

        def started(experiment: Experiment) -> tuple[object, ...]:
            precision = experiment.precision.replace("auto", "fp32")
            place = plan.Place(
                Path("/runs/1"), Path("/p/launchers"), Path("/p"), "/usr/bin/python3", "cuda", precision, 2
            )
            made = plan.make(experiment, workload, place)
            return made.command, made.environment, made.config_text

        assert started(before) != started(after)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("group", ["mode", "parallelism", "gradient_checkpointing", "data"])
def test_every_framework_says_which_options_it_supports(
    compose: Callable[..., Experiment], framework: str, group: str
) -> None:
    assert group in GROUPS
    options = {path.stem for path in (CONF / group).glob("*.yaml")}
    assert set(compose(f"framework={framework}").framework.when[group]) <= options
