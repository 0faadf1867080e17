"""Whatever the command line says: a valid plan, or one screen that says what is wrong. Never another exception.

MFUBENCH_FUZZ=5000 tries that many command lines.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mfubench.config import ConfigError, Experiment, WrongCombination
from mfubench.config.compose import GROUPS, check_command_line, store_schema
from mfubench.config.defaults import defaults
from mfubench.config.errors import key_of
from mfubench.config.hydra_errors import FREE_FORM, known_settings
from mfubench.config.validate import validate
from mfubench.files.paths import CONF, LAUNCHERS, ROOT
from mfubench.hardware.machine import Machine, resolve_precision
from mfubench.plan import engines, support
from mfubench.plan.native import Place, make_plan, threads_per_rank
from mfubench.plan.plan import Plan, plan_file
from mfubench.plan.prepare import REFUSALS
from mfubench.result.identity import identity
from mfubench.result.resume import resume_command
from mfubench.workload import Workload

EXAMPLES = int(os.environ.get("MFUBENCH_FUZZ", "40"))
OPTIONS = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in (*GROUPS, "experiment")}
ODD = (
    *("0", "1", "2", "-1", "3.5", "1e9", "1e400", "99999999999999999999", "nan", "inf", "-inf", "0x10", "1_000"),
    *("null", "true", "false", "''", '""', "' '", "???", "[]", "[1,2]", "[a,[b]]", "{}", "{a:1}", "{a:{b:null}}"),
    *(
        "${batch_size}",
        "${nothing}",
        "${mode.rank}",
        "${oc.env:NO_SUCH}",
        "${",
        "a b",
        "é",
        "日本",
        "\u202e",
        "\x1b[31m",
    ),
    *("a=b", "a:b", "a,b", "1,2", "range(1,3)", "range(3)", "choice(1,2)", "sort(2,1)", "glob(*)", "interval(0,1)"),
    *("lora,full", "tag(a,1)", "shuffle(1,2)", "int(3)", "str(1)", "float(x)", "/no/such/file", "%", "\\", "'", '"'),
)
CPU = Machine("cpu", "Some CPU", 4, 4, True, None, 2**34)
GPU = Machine("cuda", "NVIDIA A100-SXM4-80GB", 4, 8, True, "550.1", 80 * 2**30, ("GPU-a", "GPU-b", "GPU-c", "GPU-d"))
WORKLOAD = Workload(**{name: f"/{name}" for name in Workload.__dataclass_fields__} | {"first_other": {}})

groups = st.sampled_from([group for group, options in sorted(OPTIONS.items()) if options])
right = groups.flatmap(lambda group: st.sampled_from(OPTIONS[group]).map(lambda option: f"{group}={option}"))
values = st.one_of(st.sampled_from(ODD), st.integers().map(str), st.floats().map(str), st.text(max_size=8))
keys = st.sampled_from([key for key in known_settings() if key not in ("tracking", "resume")])
native_keys = st.sampled_from(
    ["framework.native.", "framework.base.", "model.architecture.", "hardware.peaks.", "parallelism.deepspeed."]
)
words = st.text("abc_.-é0", min_size=1, max_size=6)
overrides = st.one_of(
    right,
    right,
    st.builds("{}={}".format, keys, values),
    st.builds("+{}{}={}".format, native_keys, words, values),
    st.builds("{}{}={}".format, st.sampled_from(["", "+", "++", "~"]), keys | words | native_keys, values),
    st.builds("{}={},{}".format, keys, values, values),
    st.builds("~{}".format, keys | words),
    st.builds(
        "{}={}".format,
        st.sampled_from(["hydra.mode", "hydra.sweep.dir", "hydra/launcher", "hydra.sweeper.params"]),
        values,
    ),
    st.text(max_size=10),
).filter(lambda text: not text.startswith("-") and "\0" not in text)

plausible = st.one_of(
    right,
    right,
    st.builds(
        "{}={}".format, keys, st.sampled_from(["1", "2", "3.5", "8", "true", "false", "null", "[a,b]", "{a:1}", "[]"])
    ),
    st.builds("+{}{}={}".format, native_keys, words, values),
)
lines = st.one_of(st.lists(overrides, min_size=1, max_size=4), st.lists(plausible, min_size=1, max_size=5))


# A wrong combination is wrong on any machine, and has its own screen.
REFUSED_HERE = tuple(error for error in REFUSALS if error is not WrongCombination)


def planned(experiment: Experiment, machine: Machine) -> Plan | None:
    """The plan of what is valid on any machine; None where it is refused for this one."""
    try:
        framework, engine = engines.choose(experiment.framework, lambda _: True)
        precision = resolve_precision(experiment.precision, machine)
        experiment, known = replace(experiment, framework=framework), defaults(experiment.mode.name)
        support.check_supported(experiment, support.values_of(experiment, machine.device, precision, engine), known)
        support.check_devices(experiment.parallelism, machine)
        threads = threads_per_rank(machine.cores, experiment.parallelism.num_devices)
        place = Place(Path("/run"), LAUNCHERS, ROOT, "/python", machine.device, precision, threads, engine)
        return make_plan(experiment, WORKLOAD, place)
    except REFUSED_HERE:
        return None


def check(experiment: Experiment) -> None:
    """Valid, and planned on a CPU and on a GPU."""
    validate(experiment)
    json.dumps(identity(experiment))
    for machine in (CPU, GPU):
        if (made := planned(experiment, machine)) is not None:
            json.dumps(asdict(plan_file(made)), allow_nan=False)
            assert all(isinstance(word, str) for word in made.command)


@settings(
    max_examples=EXAMPLES,
    derandomize="MFUBENCH_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(argv=lines, sweeping=st.booleans())
def test_any_command_line_gives_valid_plans_or_one_screen(argv: list[str], sweeping: bool) -> None:
    store_schema()
    line = [*(["-m"] if sweeping else []), *argv]
    try:
        sweep = check_command_line(line, check)
    except ConfigError as error:
        screen = error.screen(line)
        assert screen.startswith("mfubench: ") and "Traceback" not in screen
        for override in shlex.split((error.instead or "").removeprefix("-m ")):
            assert key_of(override).startswith((*FREE_FORM, "hydra")) or key_of(override) in known_settings()
        return
    if sweep is not None:
        assert shlex.split(resume_command(line, sweep.folder))[:3] == ["python", "-m", "mfubench"]
