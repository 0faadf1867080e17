"""The plan: argv, environment and native config, worked out from an Experiment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mfubench.config import Experiment
from mfubench.plan import support
from mfubench.plan.native import Place, make_plan, num_samples, threads_per_rank
from mfubench.plan.plan import Plan
from mfubench.workload import Workload

WORKLOAD = Workload("/w/model", "/w/tokenizer", "/w/messages.jsonl", "/w/alpaca.jsonl", 74, None)
PLACE = Place(Path("/runs/1"), Path("/p/launchers"), Path("/p"), "/usr/bin/python3", "cpu", "fp32", 2)


def native(planned: Plan) -> dict[str, object]:
    """The native config as the framework reads it."""
    return dict(yaml.safe_load(planned.config_text))


def test_the_default_plan_starts_the_launcher_with_its_config(compose: Callable[..., Experiment]) -> None:
    experiment = compose()
    planned = make_plan(experiment, WORKLOAD, PLACE)
    assert planned.command == ("/usr/bin/python3", "/p/launchers/hf_trainer/train.py", "/runs/1/hf_trainer.yaml")
    assert planned.environment["OMP_NUM_THREADS"] == "2"
    assert planned.environment["HF_HUB_OFFLINE"] == "1"
    assert native(planned)["per_device_train_batch_size"] == 2
    assert native(planned)["train_file"] == "/w/messages.jsonl"
    assert "lora_r" not in native(planned) and "revision" not in native(planned)  # nulls are dropped


def test_the_probe_is_told_to_count_by_a_variable(compose: Callable[..., Experiment]) -> None:
    profiled = make_plan(compose("measurement.profile_flops=true"), WORKLOAD, PLACE)
    assert profiled.environment["MFUBENCH_PROFILE_FLOPS"] == "1"
    assert "MFUBENCH_PROFILE_FLOPS" not in make_plan(compose(), WORKLOAD, PLACE).environment


def test_two_steps_more_than_measured_are_asked_of_the_framework(compose: Callable[..., Experiment]) -> None:
    experiment = compose("measurement.steps=30", "measurement.warmup_steps=5", "measurement.profile_steps=0")
    planned = make_plan(experiment, WORKLOAD, PLACE)
    assert (planned.periods, planned.max_steps) == (35, 37)
    assert native(planned)["max_steps"] == 37


def test_a_profile_asks_for_three_steps_more_than_it_profiles(compose: Callable[..., Experiment]) -> None:
    experiment = compose("measurement.steps=30", "measurement.warmup_steps=5", "measurement.profile_steps=4")
    planned = make_plan(experiment, WORKLOAD, PLACE)
    assert (planned.periods, planned.max_steps) == (35, 37 + 4 + 3)


def test_the_samples_are_enough_for_all_steps_on_all_devices(compose: Callable[..., Experiment]) -> None:
    overrides = ("batch_size=3", "gradient_accumulation_steps=4", "parallelism=ddp", "parallelism.num_devices=2")
    experiment = compose("measurement.steps=10", "measurement.warmup_steps=2", *overrides)
    assert num_samples(experiment) == (10 + 2 + 2 + 3 + 3) * 3 * 4 * 2


def test_a_list_in_the_command_is_spliced(compose: Callable[..., Experiment]) -> None:
    planned = make_plan(compose("parallelism=ddp", "parallelism.num_devices=2"), WORKLOAD, PLACE)
    assert planned.command[1:4] == ("-m", "torch.distributed.run", "--standalone")
    assert "--nproc_per_node=2" in planned.command
    assert planned.num_ranks == 2


def test_the_settings_reach_the_native_config(compose: Callable[..., Experiment]) -> None:
    overrides = ("mode=lora", "mode.rank=4", "batch_size=8", "gradient_checkpointing=reentrant", "seed=3")
    config = native(make_plan(compose(*overrides), WORKLOAD, PLACE))
    assert (config["lora_r"], config["per_device_train_batch_size"], config["seed"]) == (4, 8, 3)
    assert config["gradient_checkpointing_kwargs"] == {"use_reentrant": True}


def test_the_users_native_keys_win_and_a_null_removes_one(compose: Callable[..., Experiment]) -> None:
    experiment = compose("+framework.native.optim=adafactor", "+framework.native.max_grad_norm=null")
    config = native(make_plan(experiment, WORKLOAD, PLACE))
    assert config["optim"] == "adafactor"
    assert "max_grad_norm" not in config


def test_a_framework_with_its_own_interpreter_is_started_with_it(compose: Callable[..., Experiment]) -> None:
    experiment = compose("framework.python=launchers/x/.venv/bin/python")
    assert make_plan(experiment, WORKLOAD, PLACE).command[0] == "/p/launchers/x/.venv/bin/python"


def test_weights_from_the_hub_let_the_framework_online(compose: Callable[..., Experiment]) -> None:
    planned = make_plan(compose("model=llama-3.1-8b", "model.weights=hub"), WORKLOAD, PLACE)
    assert planned.environment["HF_HUB_OFFLINE"] == "0"


def test_a_yaml_that_interpolates_what_is_not_there_says_so(compose: Callable[..., Experiment]) -> None:
    experiment = compose("+framework.native.x='${workload.modelpath}'")
    with pytest.raises(ValueError, match=r"conf/framework/hf_trainer.yaml: .*modelpath"):
        make_plan(experiment, WORKLOAD, PLACE)


def test_a_json_config_is_written_as_json(compose: Callable[..., Experiment]) -> None:
    planned = make_plan(compose("framework.config_file=native.json"), WORKLOAD, PLACE)
    assert planned.config_text.startswith("{")
    assert native(planned)["max_length"] == 256  # JSON is YAML


@pytest.mark.parametrize(
    ("device", "visible", "num_devices", "given"),
    [("cpu", None, 2, ""), ("cuda", None, 1, "0"), ("cuda", None, 2, "0,1"), ("cuda", "3, 1,0", 2, "3,1")],
)
def test_the_framework_sees_as_many_devices_as_were_asked_for(
    compose: Callable[..., Experiment], device: str, visible: str | None, num_devices: int, given: str
) -> None:
    experiment = compose("parallelism=ddp", f"parallelism.num_devices={num_devices}")
    planned = make_plan(experiment, WORKLOAD, replace(PLACE, device=device, visible_devices=visible))
    assert planned.environment["CUDA_VISIBLE_DEVICES"] == given


@pytest.mark.parametrize(("cores", "ranks", "threads"), [(2, 1, 2), (2, 2, 1), (16, 4, 4), (2, 4, 1)])
def test_the_cores_are_shared_out_among_the_ranks(cores: int, ranks: int, threads: int) -> None:
    assert threads_per_rank(cores, ranks) == threads


def test_a_value_without_a_branch_is_unsupported(compose: Callable[..., Experiment]) -> None:
    with pytest.raises(support.Unsupported, match="optimizer=lion"):
        make_plan(replace(compose(), optimizer="lion"), WORKLOAD, PLACE)


def test_files_of_the_frameworks_own_lie_in_the_run_folder(compose: Callable[..., Experiment]) -> None:
    described = "+framework.files={datasets.json: {mine: {file_name: '${workload.messages_path}'}}}"
    planned = make_plan(compose(described), WORKLOAD, PLACE)
    assert json.loads(planned.other_files["datasets.json"]) == {"mine": {"file_name": "/w/messages.jsonl"}}


def test_a_frameworks_own_words_reach_its_command_and_environment(compose: Callable[..., Experiment]) -> None:
    experiment = compose("mode=lora")
    framework = replace(
        experiment.framework,
        python="launchers/x/.venv/bin/python",
        command=["${run.bin}/tune", "${variables.recipe.${mode.name}}", "${run.folder}"],
        environment={"RANKS": "${variables.ranks.${parallelism.name}}"},
        variables={"recipe": {"lora": "lora_on_one"}, "ranks": {"single": None}},
    )
    planned = make_plan(replace(experiment, framework=framework), WORKLOAD, PLACE)
    assert planned.command == ("/p/launchers/x/.venv/bin/tune", "lora_on_one", "/runs/1")
    assert "RANKS" not in planned.environment  # a null is no entry


def test_what_is_left_to_the_framework_is_not_in_its_config(compose: Callable[..., Experiment]) -> None:
    own = native(make_plan(compose("comparison=defaults"), WORKLOAD, PLACE))
    ours = native(make_plan(compose(), WORKLOAD, PLACE))
    assert set(ours) - set(own) == {
        "gradient_checkpointing",
        "attn_implementation",
        "use_liger_kernel",
        "torch_compile",
        "optim",
    }
    assert set(own) <= set(ours)
