"""conf/rules.yaml: what is true of a setting in several frameworks refuses it in each of them, with its reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from mfubench.config import ConfigError, Experiment
from mfubench.config.compose import GROUPS
from mfubench.config.defaults import defaults, rules
from mfubench.config.validate import validate
from mfubench.files.paths import CONF, ROOT
from mfubench.plan import engines, support

FRAMEWORKS = sorted(path.stem for path in (CONF / "framework").glob("*.yaml"))
RULES = [(group, rule) for group, listed in rules().items() for rule in listed]
DEVICES, PRECISIONS = ("cpu", "cuda"), ("bf16", "bf16_pure", "fp32")
Asked = Callable[[str, dict[str, Any]], Iterator[tuple[Experiment, str, str]]]


def why_not(experiment: Experiment, device: str, precision: str) -> str | None:
    """The reason why the experiment is unsupported; None when it isn't."""
    values = support.values_of(experiment, device, precision, experiment.framework.engine)
    try:
        support.check_supported(experiment, values, defaults(experiment.mode.name))
    except support.Unsupported as reason:
        return str(reason)
    return None


def cases(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of values that the rule is about."""
    wanted = {key: value if isinstance(value, list) else [value] for key, value in rule.items() if key != "because"}
    for values in product(*wanted.values()):
        yield dict(zip(wanted, values, strict=True))


@pytest.fixture(scope="module")
def asked(compose: Callable[..., Experiment]) -> Asked:
    """A framework and a case → the case in each mode, on each device and in each precision that it leaves open."""
    base = compose()
    modes = [compose(f"mode={mode}").mode for mode in ("full", "lora")]
    names = {value for _, rule in RULES for case in cases(rule) for key, value in case.items() if key == "parallelism"}
    parallelism = {name: compose(f"parallelism={name}").parallelism for name in sorted(names)}
    chosen = {name: engines.choose(compose(f"framework={name}").framework, lambda _: True)[0] for name in FRAMEWORKS}

    def experiments(framework: str, case: dict[str, Any]) -> Iterator[tuple[Experiment, str, str]]:
        settings = {key: value for key, value in case.items() if key not in ("device", "precision")}
        if "parallelism" in settings:
            settings["parallelism"] = parallelism[settings["parallelism"]]
        for mode, device, precision in product(modes, DEVICES, PRECISIONS):
            if case.get("device", device) == device and case.get("precision", precision) == precision:
                experiment = replace(base, framework=chosen[framework], mode=mode, precision=precision, **settings)
                yield experiment, device, precision

    return experiments


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("group", "rule"), RULES)
def test_a_rule_refuses_what_the_framework_itself_would_allow_with_its_reason(
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    framework: str,
    group: str,
    rule: dict[str, Any],
) -> None:
    for case in cases(rule):
        for experiment, device, precision in asked(framework, case):
            reason = why_not(experiment, device, precision)
            with monkeypatch.context() as without:
                without.setattr(support, "rules", lambda: {"any": []})
                itself = why_not(experiment, device, precision)
            if group not in ("any", experiment.framework.trainer):
                assert itself == reason or rule["because"] not in (reason or "")
            elif itself is None:
                assert reason is not None and reason.startswith(f"{framework} with ")
            else:
                assert reason is not None


@pytest.mark.parametrize(("group", "rule"), RULES)
def test_every_rule_is_the_reason_in_several_frameworks(asked: Asked, group: str, rule: dict[str, Any]) -> None:
    """Else it belongs to the one framework's own `unsupported`."""
    refused = {
        framework
        for framework in FRAMEWORKS
        for case in cases(rule)
        for each in asked(framework, case)
        if (why_not(*each) or "").endswith(f": {rule['because']}")
    }
    assert len(refused) > 1


def test_no_framework_repeats_a_rule() -> None:
    said = [rule["because"] for _, rule in RULES]
    assert len(set(said)) == len(said)
    for framework in FRAMEWORKS:
        own = yaml.safe_load((CONF / "framework" / f"{framework}.yaml").read_text())["unsupported"]
        assert not {rule["because"] for rule in own} & set(said)


def test_a_framework_gives_its_own_reason_before_the_general_one(compose: Callable[..., Experiment]) -> None:
    asked = compose("framework=axolotl", "parallelism=fsdp2")
    assert "each rank loads the model" in (why_not(asked, "cpu", "fp32") or "")
    missing = compose("framework=litgpt", "attention=flash_attention_2")
    assert "litgpt does not support attention=flash_attention_2" in (why_not(missing, "cpu", "fp32") or "")


def test_the_rules_of_a_trainer_hold_for_the_frameworks_that_build_on_it(compose: Callable[..., Experiment]) -> None:
    asked = compose("framework=trl", "optimizer=adafactor")
    assert "holds its moments in fp32" in (why_not(asked, "cuda", "bf16_pure") or "")
    own_loop = replace(asked, framework=replace(asked.framework, trainer=None))
    assert why_not(own_loop, "cuda", "bf16_pure") is None
    assert why_not(compose("framework=torchtune", "optimizer=adafactor"), "cuda", "bf16_pure") is None


def test_a_trainer_without_rules_is_an_error(compose: Callable[..., Experiment]) -> None:
    asked = compose("framework=trl")
    with pytest.raises(ConfigError, match=r"framework\.trainer") as caught:
        validate(replace(asked, framework=replace(asked.framework, trainer="transformer")))
    assert caught.value.instead == "framework.trainer=transformers"


def test_a_rule_that_names_no_setting_is_an_error_of_one_screen(
    compose: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "rules", lambda: {"any": [{"optimiser": "sgd", "because": "it is spelt otherwise"}]})
    with pytest.raises(ConfigError) as caught:
        why_not(compose(), "cpu", "fp32")
    screen = caught.value.screen(["optimizer=sgd"]).splitlines()
    assert screen[:2] == ["mfubench: conf/rules.yaml names what is no setting", "  given     optimiser"]
    assert "optimizer" in screen[2] and len(screen) == 3


def test_every_rule_has_its_conditions_and_its_reason() -> None:
    assert "any" in rules()
    for _, rule in RULES:
        assert len(rule) > 1 and rule["because"].strip()


def test_the_rules_are_no_option_of_a_group_and_no_framework() -> None:
    assert "rules" not in GROUPS and "rules" not in FRAMEWORKS and (CONF / "rules.yaml").is_file()


def test_the_rules_hold_for_a_framework_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "framework").mkdir()
    shutil.copy(CONF / "framework" / "hf_trainer.yaml", tmp_path / "framework" / "own.yaml")
    own = tmp_path / "framework" / "own.yaml"
    own.write_text(own.read_text().replace("name: hf_trainer", "name: own"))
    command = [sys.executable, "-m", "mfubench", "--config-dir", str(tmp_path), "framework=own", "hardware=cpu"]
    command += ["attention=flash_attention_2", "dry_run=true", f"hydra.run.dir={tmp_path / 'run'}", "tracking=none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    said = " ".join((done.stdout + done.stderr).split())
    assert "unsupported: own with attention=flash_attention_2, device=cpu: FlashAttention's kernels run on CUDA" in said
