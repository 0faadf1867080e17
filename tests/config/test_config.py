"""What the command line may say, and what it gets for what is wrong."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from mfubench.config import ConfigError, Experiment, Liger, WrongCombination
from mfubench.config.compose import (
    CONFIG_NAME,
    GROUPS,
    check_command_line,
    compose_one,
    flags_first,
    resolved_yaml,
    store_schema,
)
from mfubench.config.defaults import defaults
from mfubench.config.errors import COMMAND
from mfubench.config.hydra_errors import known_settings, meant_by
from mfubench.config.overrides import WITHOUT_OPTIONS
from mfubench.config.validate import validate
from mfubench.config.vocabulary import ATTENTIONS, COMPARISONS, OPTIMIZERS, PRECISIONS
from mfubench.files.paths import CONF

ROOT = Path(__file__).parents[2]
ODD_NAMES = [
    "a=b",
    "a#b",
    "[a]",
    "a]",
    "(a)",
    'a"b',
    "it's",
    "a,b",
    "~a",
    "é",
    "日本",
    "{a}",
    "a b",
    "a&b;c",
    "a!",
    "a@b",
]
ODD_NAMES += [
    "$HOME",
    "a\\b",
    'a\\"b',
    "a%20",
    "a:b",
    "*?",
    "a|b<c>",
    "`a`",
    ",a",
    "a,,b",
    "a\tb",
    "–",
    "a'b\"c,d",
    "null",
]
STUDY = "experiment=axolotl-vs-llmforge"
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]


def refusal(*argv: str) -> ConfigError:
    """What the command line `argv` is refused with."""
    store_schema()
    with pytest.raises(ConfigError) as caught:
        check_command_line(argv)
    return caught.value


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_is_valid(
    compose: Callable[..., Experiment], group: str, option: str
) -> None:
    experiment = compose(f"{group}={option}", *(["data.path=some.jsonl"] if option == "jsonl" else []))
    validate(experiment)
    assert getattr(experiment, group).name == option


def test_the_defaults_are_those_of_the_design(compose: Callable[..., Experiment]) -> None:
    default, lora = compose(), compose("mode=lora")
    options = {group: getattr(default, group).name for group in GROUPS.keys() - WITHOUT_OPTIONS}
    assert options["framework"] == "hf_trainer"
    assert options["model"] == "llama-tiny"
    assert (options["mode"], options["parallelism"], options["gradient_checkpointing"]) == ("full", "single", "none")
    assert (default.batch_size, default.sequence_length, default.gradient_accumulation_steps) == (2, 256, 1)
    assert (default.precision, default.attention, default.optimizer) == ("auto", "sdpa", "adamw_torch_fused")
    assert (default.liger_kernel, default.torch_compile, default.dry_run) == (False, False, False)
    assert default.liger == Liger(True, True, True, False, True)  # as Liger's own functions have it
    assert (default.data.name, default.data.padding) == ("synthetic", "max_length")
    assert (lora.mode.rank, lora.mode.alpha, lora.mode.dropout) == (8, 16, 0.05)
    assert compose("mode=qlora").mode == replace(lora.mode, name="qlora", quantization="nf4", double_quantization=True)
    assert lora.mode.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_defaults_come_from_the_files_that_hydra_reads(compose: Callable[..., Experiment]) -> None:
    experiment = compose("mode=lora")
    said = defaults("lora")
    assert said["batch_size"] == experiment.batch_size
    assert said["mode.rank"] == experiment.mode.rank
    assert defaults("full")["mode.rank"] is None


@pytest.mark.parametrize(
    ("argument", "right"),
    [
        ("batchsize=4", "batch_size=4"),
        ("mod=full", "mode=full"),
        ("mode=ful", "mode=full"),
        ("mode.rnk=4", "mode.rank=4"),
        ("model=llama-3.1-8", "model=llama-3.1-8b"),
        ("hardware=h100-sx", "hardware=h100-sxm"),
        ("attention=sdp", "attention=sdpa"),
        ("precision=fp16", "precision=bf16"),
        ("mode.quantization=nf5", "mode.quantization=nf4"),
        ("framework=hf", "framework=hf_trainer"),
        ("+gradient_accumulation=4", "gradient_accumulation_steps=4"),
        ("framework.native.optim=sgd", "+framework.native.optim=sgd"),
        ("framework.variables.length=1", "+framework.variables.length=1"),
        ("model.num_hidden_layers=2", "model.architecture.num_hidden_layers=2"),
        ("hidden_size=256", "model.architecture.hidden_size=256"),
        ("hidden_size=256,512", "model.architecture.hidden_size=256,512"),
        ("model.num_layers=2", "model.architecture.num_hidden_layers=2"),
        ("lora_r=16", "mode.rank=16"),
        ("mode.r=16", "mode.rank=16"),
        ("num_gpus=2", "parallelism.num_devices=2"),
        ("rank=16", "mode.rank=16"),  # the last word of one setting
        ("training.batch_size=4", "batch_size=4"),
        ("dtype=bf16", "precision=bf16"),
        ("gpu=a100", "hardware=a100"),
        ("liger=true", "liger_kernel=true"),
        ("+framework.nativ.seed=3", "+framework.native.seed=3"),
        ("+experiment=batch-size", "experiment=batch-size"),
        ("++mode=lora", "mode=lora"),
        ("+batch_size=4", "batch_size=4"),
        ("batch_size=1,2", "-m batch_size=1,2"),
        ("mode=[full,lora]", "-m mode=full,lora"),
        ("mode.target_modules=q_proj,v_proj", "'mode.target_modules=[q_proj,v_proj]'"),
        ("mode.target_modules=q_proj", "'mode.target_modules=[q_proj]'"),
        ("mode.target_modules='q_proj,v_proj'", "'mode.target_modules=[q_proj,v_proj]'"),
        ("mode.target_modules=all", "mode.target_modules=all-linear"),
        ("mode.target_modules=.*(q|v)_proj", "'mode.target_modules=\".*(q|v)_proj\"'"),
        ("mode.target_modules='.*(q'", "mode.target_modules=all-linear"),
        ("mode.target_modules=[3]", "'mode.target_modules=[q_proj,v_proj]'"),
        ("mode.modules_to_save=embed_tokens", "'mode.modules_to_save=[embed_tokens]'"),
        ("data.path=~/x.jsonl", "'data.path=\"~/x.jsonl\"'"),
        ("data.path=/a/x=y#(z).jsonl", "'data.path=\"/a/x=y#(z).jsonl\"'"),
        ("data.path=/a/c,d/x.jsonl", "'data.path=\"/a/c,d/x.jsonl\"'"),
        ("model.architecture={head_dim: 128}", "'+model.architecture={head_dim: 128}'"),
    ],
)
def test_what_is_misspelled_names_what_is_meant(argument: str, right: str) -> None:
    assert refusal(argument).screen([argument]).endswith(f"python -m mfubench {right}")


@pytest.mark.parametrize("argument", ["lr=3e-4", "learning_rate=3e-4", "epochs=3", "lr=1e-4,3e-4", "max_grad_norm=1"])
def test_a_setting_that_is_left_to_the_framework_is_sent_there(argument: str) -> None:
    screen = refusal(argument).screen([argument])
    assert "+framework.native.KEY=VALUE" in screen and "  try  " not in screen


@pytest.mark.parametrize(
    ("argument", "there_is"),
    [
        ("+mode.bias=all", "one of mode.rank, mode.alpha, mode.dropout, mode.target_modules, "),
        ("hub_id=a/b", "a setting of mfubench, such as data.hub_id, model.hub_id"),
        ("wandb=false", "tracking by name, one of none, wandb"),
        ("gradient_checkpointing=true", "one of non_reentrant, none, reentrant"),
        ("mode=peft", "one of full, lora, qlora"),
        ("hardware=h100", "one of h100-nvl, h100-pcie, h100-sxm"),
        ("batch_size", "batch_size=value"),
        ("repeat=range(5", "repeat=value"),
    ],
)
def test_where_nothing_is_surely_meant_the_choice_is_shown_and_no_command(argument: str, there_is: str) -> None:
    screen = refusal(argument).screen([argument])
    assert f"  expected  {there_is}" in screen and "  try  " not in screen


def test_a_suggestion_keeps_all_that_was_typed() -> None:
    argv = ["-m", "batch_size=1,2", "data.path=~/x.jsonl", "mode=lora"]
    assert refusal(*argv).screen(argv).endswith(" -m batch_size=1,2 mode=lora 'data.path=\"~/x.jsonl\"'")
    argv = ["model.architecture={model_type: qwen3, head_dim: 128}", "seed=1"]
    assert refusal(*argv).screen(argv).endswith(" seed=1 '+model.architecture={model_type: qwen3, head_dim: 128}'")
    argv = ["-m", "mode.target_modules=q_proj,v_proj", "seed=1,2"]
    assert refusal(*argv).screen(argv).endswith(" -m seed=1,2 'mode.target_modules=[q_proj,v_proj]'")


def test_a_sweep_over_files_is_told_from_a_path_with_a_comma(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c=1.jsonl")]
    for file in files:
        file.touch()
    assert refusal(f"data.path={files[0]},{files[1]}").instead == f"-m data.path={files[0]},{files[1]}"
    each_in_quotes = f"'data.path={files[0]},\"{files[2]}\"'"
    assert refusal("-m", f"data.path={files[0]},{files[2]}").instead == each_in_quotes


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_that_hydra_reads_in_its_own_way_is_answered_with_the_quotes_that_it_needs(name: str) -> None:
    store_schema()
    path, given = f"/a/{name}/x.jsonl", f"data.path=/a/{name}/x.jsonl"
    with suppress(ConfigError):
        assert compose_one(["data=jsonl", given]).data.path == path
        return
    flags, *overrides = shlex.split(refusal("data=jsonl", given).screen(["data=jsonl", given]).partition(COMMAND)[2])
    assert flags == "data=jsonl" and compose_one([flags, *overrides]).data.path == path


def test_brackets_at_the_ends_are_of_the_path_too() -> None:
    for path in ("[a.jsonl,b.jsonl]", "{a}"):
        assert refusal("data=jsonl", f"data.path={path}").instead == f"'data.path=\"{path}\"'"
    assert "as \\${" in refusal("data=jsonl", "data.path=/a/${b}.jsonl").expected


@pytest.mark.parametrize("flags", ["--cfg job", "--cfg all --resolve", "--help", "--info defaults", "-cd .", "-m"])
def test_a_typo_beside_any_flag_is_the_same_screen(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, right in (
        ("batch_sise=1", "batch_size=1"),
        ("mode=ful", "mode=full"),
        ("+exp=liger", "experiment=liger"),
    ):
        argv = [*flags.split(), given]
        assert refusal(*argv).screen(argv).endswith(f"{COMMAND} {flags} {right}")


def test_settings_that_are_only_printed_need_not_make_a_run() -> None:
    store_schema()
    for argv in (["data=jsonl"], ["experiment=batch-size"], ["batch_size=0"]):
        assert check_command_line(["--cfg", "job", *argv]) is None
    assert refusal("--cfg", "job", "seed=1,2").instead is None
    assert refusal("-m", "--cfg", "job", "seed=1,2").problem == "-m runs jobs, --cfg and --info only print"


def test_resolved_settings_have_values_but_for_the_names_that_only_the_plan_knows() -> None:
    store_schema()
    printed = resolved_yaml(["--cfg", "job", "--resolve", "parallelism=zero2", "batch_size=3"])
    assert printed is not None
    settings = yaml.safe_load(printed)
    assert settings["parallelism"]["deepspeed"]["train_micro_batch_size_per_gpu"] == 3
    assert "${run.python}" in printed and "hydra" not in settings
    assert resolved_yaml(["--cfg", "job", "--resolve", "-p", "mode.rank", "mode=lora"]) == "8\n"
    assert resolved_yaml(["--cfg", "job"]) is None


def test_options_of_a_folder_of_ones_own_are_checked_as_those_of_conf(tmp_path: Path) -> None:
    (tmp_path / "a, b" / "experiment").mkdir(parents=True)
    (tmp_path / "a, b" / "experiment" / "mine.yaml").write_text("# @package _global_\nbatch_size: 3\n")
    sizes: list[tuple[int, int]] = []
    argv = ["-m", "-cd", str(tmp_path / "a, b"), "experiment=mine", "seed=1,2"]
    store_schema()
    sweep = check_command_line(argv, lambda experiment: sizes.append((experiment.batch_size, experiment.seed)))
    assert sizes == [(3, 1), (3, 2)] and sweep is not None
    assert sweep.overrides == ("experiment=mine", "seed=1,2")


@pytest.mark.parametrize(
    ("flag", "right"),
    [("--batch_size=4", "batch_size=4"), ("--batch-size=4", "batch_size=4"), ("--lr=1", None), ("--mode", None)],
)
def test_a_flag_that_there_is_not_is_a_setting_if_it_has_the_name_of_one(flag: str, right: str | None) -> None:
    error = refusal(flag, "seed=1")
    assert error.instead == right and error.problem == f"there is no flag {flag.partition('=')[0]}"


def test_synonyms_stand_for_settings_that_there_are_and_are_none_themselves() -> None:
    synonyms = yaml.safe_load((ROOT / "conf" / "synonyms.yaml").read_text())
    names = [name for others in synonyms.values() for name in others]
    known = set(known_settings())
    assert len(names) == len(set(names)) and not {*names} & known - {*WITHOUT_OPTIONS}
    for setting in synonyms:
        assert setting in known or meant_by(setting.removeprefix("model.architecture.")) == [setting]


def test_a_misspelled_key_in_a_sweep_keeps_all_its_values() -> None:
    argv = ["-m", "batchsize=1,2", "mode=lora"]
    assert refusal(*argv).screen(argv).endswith("python -m mfubench -m mode=lora batch_size=1,2")


def test_a_corrected_command_line_says_nothing_twice() -> None:
    argv = ["optimizer=sgd", "seed=1", "comparison=defaults"]
    assert refusal(*argv).screen(argv).endswith("python -m mfubench seed=1 comparison=equal optimizer=sgd")


def test_a_sweep_over_options_that_are_alike_has_a_job_for_each_and_at_least_one() -> None:
    models: list[str] = []
    store_schema()
    check_command_line(["-m", "model=glob(llama-3.2*)"], lambda experiment: models.append(experiment.model.name))
    assert models == ["llama-3.2-1b", "llama-3.2-3b"]
    assert refusal("-m", "model=glob(lama*)").problem == "these values can't be swept: there are none"


def test_a_sweep_may_be_asked_for_anywhere_on_the_line() -> None:
    assert flags_first(["mode=lora", "-m", "seed=1,2"]) == ["-m", "mode=lora", "seed=1,2"]
    argv = ["mode=lora", "seed=1,2"]
    assert refusal(*argv).screen(argv).endswith("python -m mfubench -m mode=lora seed=1,2")


@pytest.mark.parametrize(
    "argv",
    [
        ["batch_size=0"],
        ["batch_size=x"],
        ["batch_size=1.5"],
        ["batch_size"],
        ["sequence_length=1"],
        ["gradient_accumulation_steps=0"],
        ["mode=lora", "mode.rank=0"],
        ["mode=lora", "mode.dropout=1"],
        ["mode=lora", "mode.target_modules=[]"],
        ["measurement.steps=1"],
        ["measurement.steps=2"],  # fewer than are profiled
        ["measurement.profile_steps=-1"],
        ["measurement.keep_trace=true", "measurement.profile_steps=0"],
        ["measurement.timeout_s=0"],
        ["hardware.peak_flops_per_second=-1"],
        ["hardware.price_per_hour=-1"],
        ["-m", "batch_size=1,0"],
        ["+nothing=1"],
        ["~mode"],
        ["mode=1"],
        ["model.weights=rand"],
        ["model.revision=abc"],
        ["hydra.launcher.n_jobs=4"],
        ["seed=4294967296"],
    ],
)
def test_what_is_wrong_on_any_machine_is_refused(argv: list[str]) -> None:
    screen = refusal(*argv).screen(argv)
    assert screen.startswith("mfubench: ")
    assert "given" in screen and "expected" in screen
    assert len(screen.splitlines()) <= 4


def test_a_sequence_beyond_the_models_limit_is_refused_alone_and_left_to_its_row_in_a_sweep() -> None:
    error = refusal("sequence_length=4096")
    assert isinstance(error, WrongCombination)
    assert error.instead == "sequence_length=2048"
    check_command_line(["-m", "sequence_length=256,4096"])


def test_several_devices_need_something_that_starts_them() -> None:
    error = refusal("parallelism.num_devices=4")
    assert error.instead == "parallelism=ddp parallelism.num_devices=4"


def test_hub_weights_need_a_model_that_is_on_the_hub() -> None:
    assert isinstance(refusal("model.weights=hub"), WrongCombination)


def test_a_file_of_samples_is_asked_for_and_belongs_to_jsonl_only() -> None:
    assert refusal("data=jsonl").instead == "data=jsonl data.path=FILE"
    assert refusal("data.path=a.jsonl").instead == "data=jsonl data.path=a.jsonl"
    assert refusal("data=alpaca", "data.padding=long").instead == "data.padding=longest"


def test_liger_has_one_loss_at_a_time_and_its_switches_are_set_one_by_one() -> None:
    both = ("liger_kernel=true", "liger.cross_entropy=true")
    assert isinstance(refusal(*both), WrongCombination)
    check_command_line([*both, "liger.fused_linear_cross_entropy=false"])
    check_command_line(["liger.cross_entropy=true"])  # Liger is off
    assert refusal("liger.ropes=true").instead == "liger.rope=true"


def test_an_engine_that_a_framework_does_not_have_is_refused() -> None:
    assert refusal("framework.engine=own").problem == "hf_trainer is started in one way only"
    error = refusal("framework=llmforge", "framework.engine=open")
    assert (error.instead, error.expected) == ("framework.engine=open-stack", "one of llmforge, open-stack")


def test_options_of_deepspeed_can_be_set_and_new_ones_need_a_plus(compose: Callable[..., Experiment]) -> None:
    zero = compose(
        "parallelism=zero3",
        "parallelism.deepspeed.zero_optimization.overlap_comm=false",
        "+parallelism.deepspeed.zero_optimization.stage3_max_live_parameters=1e9",
    ).parallelism.deepspeed
    assert zero is not None
    assert zero["zero_optimization"]["stage"] == 3
    assert zero["zero_optimization"]["overlap_comm"] is False
    assert zero["zero_optimization"]["stage3_max_live_parameters"] == 1e9
    assert refusal("parallelism=zero2", "parallelism.deepspeed.gradient_cliping=1").instead == (
        "+parallelism.deepspeed.gradient_cliping=1"
    )


def test_the_zero_stages_are_the_published_settings(compose: Callable[..., Experiment]) -> None:
    for stage in range(4):
        zero = (compose(f"parallelism=zero{stage}").parallelism.deepspeed or {})["zero_optimization"]
        assert zero["stage"] == stage
        assert (zero["overlap_comm"], zero["contiguous_gradients"]) == (True, True)
        assert zero["reduce_bucket_size"] == zero["allgather_bucket_size"] == 5e8


def test_a_users_own_defaults_are_laid_over_ours_and_under_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MFUBENCH_LOCAL")
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "conf" / "local").mkdir()
    (tmp_path / "conf" / "local" / "default.yaml").write_text("batch_size: 8\ntracking: {entity: me}\n")
    store_schema()
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        mine, said, study = (hydra_compose(CONFIG_NAME, o) for o in ([], ["batch_size=3"], [STUDY]))
    assert (mine.batch_size, mine.tracking.entity, said.batch_size) == (8, "me", 3)
    assert study.batch_size == 2  # a named study is what it says


@pytest.mark.skipif(
    " " in sys.prefix, reason="Hydra's completion doesn't know a program whose interpreter's path has a space"
)
def test_the_shell_completes_groups_options_and_settings(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "mfubench"
    script = f"""export PATH="{program.parent}:$PATH"
eval "$(mfubench -sc install=bash)"
for COMP_LINE in "mfubench parallelism=ze" "mfubench gradient_acc"; do
  COMP_POINT=${{#COMP_LINE}} COMP_CWORD=1 hydra_bash_completion
  echo "${{COMPREPLY[@]}}"
done"""
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "parallelism=zero0 parallelism=zero1 parallelism=zero2 parallelism=zero3",
        "gradient_accumulation_steps=",
    ]


def test_a_sweep_over_modes_may_set_what_only_one_of_them_has(compose: Callable[..., Experiment]) -> None:
    check_command_line(["-m", "mode=full,lora", "mode.rank=4"])
    assert compose("mode=lora", "mode.rank=4").mode.rank == 4


def test_only_composing_needs_hydra() -> None:
    program = "import sys, mfubench.config.validate, mfubench.plan.prepare; print('hydra' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"


def test_hydras_private_parts_are_imported_in_one_file() -> None:
    sources = (ROOT / "mfubench").rglob("*.py")
    assert [path.name for path in sources if "hydra._internal" in path.read_text()] == ["hydra_internal.py"]


def test_a_mode_is_not_what_a_sweep_sets_for_another(compose: Callable[..., Experiment]) -> None:
    given = ("mode.rank=4", "mode.quantization=fp4")
    full, lora, qlora = (compose(f"mode={name}", *given).mode for name in ("full", "lora", "qlora"))
    assert [mode.has_adapters for mode in (full, lora, qlora)] == [False, True, True]
    assert [mode.four_bit for mode in (full, lora, qlora)] == [None, None, "fp4"]


def test_an_experiment_is_its_own_sweep() -> None:
    study = yaml.safe_load((ROOT / "conf/experiment/checkpointing-cost.yaml").read_text())
    assert study["hydra"]["mode"] == "MULTIRUN"
    check_command_line(["experiment=checkpointing-cost"])
    assert refusal("experiment=checkpointing-cost", "batch_size=1,0").problem == "batch_size can't be 0"


def test_a_wrong_command_line_exits_with_2_prints_one_screen_and_leaves_no_folder(tmp_path: Path) -> None:
    for argv in (["batchsize=4"], ["batch_size=0"], ["-m", "batch_size=1,0"], ["mode=lora", "mode.rank=0"]):
        command = [sys.executable, "-m", "mfubench", *argv]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 4
        assert list(tmp_path.iterdir()) == []


def test_help_has_what_each_setting_can_be() -> None:
    said = (CONF / "hydra" / "mfubench.yaml").read_text()
    for name, values in (("precision", PRECISIONS), ("attention", ATTENTIONS), ("comparison", COMPARISONS)):
        assert f"{name}: {', '.join(values)}" in said
    assert f"optimizer: {', '.join(OPTIMIZERS)}" in said


def test_the_settings_come_before_the_frameworks_recipe() -> None:
    first, *_, last = get_type_hints(Experiment)
    assert (first, last) == ("batch_size", "framework")


def test_help_and_the_composed_configuration_are_printed() -> None:
    for flags, expected in ((["--help"], "gradient_checkpointing"), (["--cfg", "job"], "batch_size: 2")):
        done = subprocess.run([sys.executable, "-m", "mfubench", *flags], capture_output=True, text=True, check=True)
        assert expected in done.stdout
