"""Make the Target and the Prepared of a watched command, from what the probe saw it do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import yaml
from rich.console import Console

from mfubench.config import Experiment, GradientCheckpointing, Mode, Parallelism
from mfubench.config.vocabulary import ATTENTIONS, MODES, OPTIMIZERS, RECOMPUTATIONS, UNKNOWN
from mfubench.files.paths import CONF
from mfubench.flops.counts import AMOUNTS, FlopCount
from mfubench.flops.crosscheck import compare_counts
from mfubench.flops.in_process import count_in_process
from mfubench.flops.profile import Profile
from mfubench.flops.step import profile_of
from mfubench.hardware.machine import detect
from mfubench.hardware.matmul_rates import RunTogether
from mfubench.hardware.peaks import Peaks, UnknownPeak
from mfubench.plan.plan import Plan
from mfubench.plan.prepare import Prepared, Target, measure_peaks
from mfubench.records.reading import Records
from mfubench.records.work_check import liger_switches

Work = Mapping[str, Any]  # as the probe describes it
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def seen_target(target: Target, records: Records) -> Target:
    """Return the target with the settings that the command was seen to run with; as it is if its work wasn't seen."""
    work = records.ranks[0].work if records.ranks else {}
    if not work:
        return target
    experiment, machine = _seen_experiment(target.experiment, work, records), target.machine
    if work["device"] != machine.device:  # the machine has a GPU, and the command left it alone
        machine = detect(replace(experiment.hardware, device=work["device"]))
    threads = work["threads"] if machine.device == "cpu" else None
    return Target(experiment, machine, experiment.precision, None, threads)


def seen_work(target: Target, plan: Plan, records: Records) -> Prepared:
    """Return the FLOPs of what the command did: by its model's config if that makes this very model, else as counted in it."""
    experiment, plan = target.experiment, replace(plan, num_ranks=target.num_devices)
    work = records.ranks[0].work if records.ranks else {}
    if not work:
        return Prepared(target, None, _no_count(0, 0), None, plan)
    profile, no_profile = _profile(experiment, work)
    executed = profile is not None and _executes_as_counted(experiment, work)
    in_process = count_in_process(records, work["recomputation"])
    unknown = _no_count(work["parameters"], work["trainable_parameters"])

    def counted(batch_size: int, sequence_length: int) -> FlopCount:
        own = in_process.get((batch_size, sequence_length), unknown)
        if profile is None:
            return own
        by_config = profile.of(batch_size, sequence_length)
        return (
            by_config if executed else replace(by_config, hardware_flops=own.hardware_flops, hardware_flops_causal=None)
        )

    step = counted(experiment.batch_size, experiment.sequence_length).scaled(experiment.gradient_accumulation_steps)
    second = compare_counts(experiment, step) if executed else None
    if executed:
        return Prepared(target, None, step, second, plan, counted)
    batches = {(b.batch_size, b.sequence_length) for rank in records.ranks for step in rank.micro_batches for b in step}
    why = no_profile or "what it recomputes, or the kernel that attends, can't be told from the model's config"
    return Prepared(target, None, step, second, plan, counted, (_absent(why, [counted(*shape) for shape in batches]),))


def _no_count(parameters: int, trainable_parameters: int) -> FlopCount:
    return FlopCount(None, None, None, None, parameters, trainable_parameters, uncounted={})


def seen_peaks(prepared: Prepared, run_together: RunTogether, console: Console) -> tuple[Prepared, Peaks]:
    """Find the peak of the precision that was seen; if it isn't known, say so in `unknown`."""
    target = prepared.target
    if prepared.counted is None:
        return prepared, Peaks(None, None)
    try:
        if target.precision == UNKNOWN and target.experiment.hardware.peak_flops_per_second is None:
            raise UnknownPeak(
                "the dtype of the products couldn't be seen, so the peak isn't known; give it, in FLOP/s, for MFU and HFU: "
                "hardware.peak_flops_per_second=312e12 (an example)"
            )
        return prepared, measure_peaks(target, run_together, console)
    except UnknownPeak as error:
        return replace(prepared, unknown=(*prepared.unknown, str(error))), Peaks(None, None)


def _absent(why: str, counts: Sequence[FlopCount]) -> str:
    """Say where the FLOPs of the micro-batches' shapes come from if not from the model's config, and which aren't known."""
    lacking = [name.replace("_", " ") for name in AMOUNTS if any(count.flops[name] is None for count in counts)]
    counted = "; FLOPs executed are those counted in one step of its process"
    if "hardware flops" in lacking:
        counted = "; no step could be counted in its process" + ", for all its shapes" * (len(counts) > 1)
    return why + counted + (f"; not known: {', '.join(lacking)}" if lacking else "")


def _profile(experiment: Experiment, work: Work) -> tuple[Profile | None, str]:
    """Count by the model's config; None, and why, if there is none or if it makes another model than the one that trained."""
    known = replace(
        experiment,
        mode=experiment.mode if experiment.mode.name in MODES else Mode("full"),
        attention=experiment.attention if experiment.attention in ATTENTIONS else "eager",
        gradient_checkpointing=GradientCheckpointing(work["recomputation"] if _recomputes_whole(work) else "none"),
    )
    if not experiment.model.architecture:
        return None, f"{work['model']} has no config of transformers"
    try:
        profile = profile_of(known)
    except Exception as error:  # of transformers' code for any model, or of a full cache: the step's own count remains
        return None, f"its config can't be counted: {error}"
    made = (profile.parameters, profile.trainable_parameters, profile.trainable_parameters)
    trained = work["trainable_parameters"]
    here = (work["parameters"], trained, work["trainable_parameters_with_gradient"] or trained)
    if made == here:
        return profile, ""
    in_words = "{:,} parameters, {:,} of them trained and {:,} with a gradient".format
    return None, f"its config makes a model of {in_words(*made)}, and the one that trained has {in_words(*here)}"


def _executes_as_counted(experiment: Experiment, work: Work) -> bool:
    called = work["attention"].get("sdpa_calls") != 0 or experiment.attention != "sdpa"
    return called and experiment.attention in ATTENTIONS and _recomputes_whole(work)


def _recomputes_whole(work: Work) -> bool:
    """True if nothing is recomputed, or every block of the model in one way."""
    blocks = (work["config"] or {}).get("num_hidden_layers")
    kind = work["recomputation"]
    return kind == "none" or (kind in RECOMPUTATIONS and sum(work["recomputed"].values()) == blocks)


def _seen_experiment(asked: Experiment, work: Work, records: Records) -> Experiment:
    steps = [step for rank in records.ranks for step in rank.micro_batches if step]
    batches = [batch for step in steps for batch in step]
    lengths = {batch.sequence_length for batch in batches}
    optimizers = {_optimizer(each["class"], bool(each["fused"])) for each in work["optimizers"]}
    seen = liger_switches(work["liger_kernels"])
    kernels = {switch: switch in seen for switch in asdict(asked.liger)} if seen else {}
    return replace(
        asked,
        batch_size=_usual([batch.batch_size for batch in batches]),
        sequence_length=max(lengths, default=0),
        gradient_accumulation_steps=_usual([len(step) for step in steps]),
        precision=_precision(work),
        attention=work["attention"]["implementation"] or UNKNOWN,
        liger_kernel=bool(seen),
        liger=replace(asked.liger, **kernels),
        torch_compile=work["compiled"],
        optimizer=" and ".join(sorted(optimizers)) or UNKNOWN,
        seed=work["seed"],
        mode=_mode(work),
        parallelism=_parallelism(work, len(records.ranks)),
        gradient_checkpointing=GradientCheckpointing(work["recomputation"] or UNKNOWN),
        data=replace(asked.data, padding="of several lengths" if len(lengths) > 1 else ""),
        model=replace(asked.model, name=work["model"], architecture=work["config"] or {}),
    )


def _usual(numbers: list[int]) -> int:
    return Counter(numbers).most_common(1)[0][0] if numbers else 0


def _precision(work: Work) -> str:
    """Return the precision of the products; `unknown` if they weren't seen, or are in fp32 without TF32 on CUDA."""
    seen = PRECISIONS.get(work["linear_dtype"] or "", UNKNOWN)
    if seen == "fp32" and work["device"] == "cuda" and not work["tf32"]:
        return UNKNOWN
    pure = seen == "bf16" and set(work["dtypes"]["trainable"]) == {"bfloat16"} and not work["optimizers_step_copies"]
    return "bf16_pure" if pure else seen


def _optimizer(kind: str, fused: bool) -> str:
    named = (name for name, each in OPTIMIZERS.items() if each.kind == kind and each.fused in (None, fused))
    return next(named, kind)


def _mode(work: Work) -> Mode:
    """Return LoRA with its settings if there are adapters, else full, or the fact that something is frozen."""
    lora, quantized = work["lora"], list(work["quantized"])
    if lora is None:
        return Mode("full" if work["trainable_parameters"] == work["parameters"] else "partly frozen")
    return Mode("qlora", **lora, quantization=quantized[0]) if quantized else Mode("lora", **lora)


def _parallelism(work: Work, num_ranks: int) -> Parallelism:
    """Return the option of conf/parallelism with the wrapper that was seen; another wrapper keeps its own name."""
    wrappers, stage = work["parallel_wrappers"], work["zero_stage"]
    wrapper = next((each for each in wrappers if each in _wrappers()), wrappers[0] if wrappers else None)
    name = f"zero{stage}" if stage is not None else _wrappers().get(wrapper) or str(wrapper)
    return Parallelism(name, num_devices=max(work["world_size"], num_ranks), num_nodes=1, launcher=[], wrapper=wrapper)


@cache
def _wrappers() -> Mapping[str | None, str]:
    """Class of the wrapper → the option of conf/parallelism."""
    options = [yaml.safe_load(path.read_text()) for path in sorted((CONF / "parallelism").glob("*.yaml"))]
    return {option["wrapper"]: option["name"] for option in options if "wrapper" in option}
