"""The support matrix: for every value of every setting, the modes in which each framework runs it.

A cell also has the modes that run on other devices only, and the reasons for the rest. A value is tried alone, over the
defaults: for combinations there is `dry_run=true`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

from mfubench.config import ConfigError, Experiment, Liger
from mfubench.config.compose import compose_one
from mfubench.config.defaults import options_of
from mfubench.config.vocabulary import ATTENTIONS, FRAMEWORK_GROUPS, PRECISIONS, RESOLVED_PRECISIONS
from mfubench.hardware.machine import Machine, Unavailable, resolve_precision
from mfubench.launch.programs import responds
from mfubench.plan import engines, support
from mfubench.plan.prepare import Target, check, check_installed

VARIED_GROUPS = ("framework", *FRAMEWORK_GROUPS)
ANY_FILE = "data.path=FILE"  # data=jsonl doesn't compose without one

Options = Mapping[str, Mapping[str, Any]]  # group → option → its settings
Variation = Callable[[Experiment], Experiment]


@dataclass(frozen=True)
class MatrixCell:
    """One framework and one value: the modes in which it runs here, if need be with a precision other than `auto`'s.

    Also the modes in which it would run on another device, and the reasons why it doesn't run as asked.
    """

    here: Sequence[str]
    elsewhere: Sequence[str]
    reasons: Mapping[str, str]  # mode → why not; for a mode in `here`, why not with precision=auto

    @property
    def everywhere(self) -> bool:
        """True if it runs here in every mode that the framework has."""
        return not self.elsewhere and not self.reasons


@dataclass(frozen=True)
class MatrixRow:
    """One value of one setting, as written on the command line."""

    setting: str
    value: str
    cells: Mapping[str, MatrixCell]  # by framework


def every_option() -> Options:
    """All options of the groups in which frameworks differ. Composing is slow, so each composition takes one of each group."""
    names = {group: options_of(group) for group in VARIED_GROUPS}
    found: dict[str, dict[str, Any]] = {group: {} for group in VARIED_GROUPS}
    for turn in zip_longest(*names.values()):
        chosen = {group: name for group, name in zip(VARIED_GROUPS, turn, strict=True) if name is not None}
        needed = [ANY_FILE] if chosen.get("data") == "jsonl" else []
        experiment = compose_one([*(f"{group}={name}" for group, name in chosen.items()), *needed])
        for group, name in chosen.items():
            found[group][name] = getattr(experiment, group)
    return found


def at_best_precision(experiment: Experiment, options: Options, machine: Machine) -> Experiment:
    """Replace precision=auto by the first precision at which the framework runs here in most modes, if `auto` isn't one."""
    if experiment.precision != "auto":
        return experiment

    def modes_that_run(precision: str) -> int:
        tried = (replace(experiment, precision=precision, mode=mode) for mode in options["mode"].values())
        return sum(why_not(each, machine) is None for each in tried)

    return replace(experiment, precision=max(PRECISIONS, key=modes_that_run))  # the first of several


def matrix(
    base: Mapping[str, Experiment], options: Options, machine: Machine, installed: Collection[str] = ()
) -> list[MatrixRow]:
    """A row for each value of each setting.

    Args:
        base: for each framework, the experiment in which one setting is varied.
        options: of the groups in which frameworks differ.
        machine: this one.
        installed: frameworks whose environments are asked for the packages that a setting needs.
    """
    modes: dict[str, Variation] = {name: _set(mode=mode) for name, mode in options["mode"].items()}

    def cell(name: str, by_mode: Mapping[str, Variation]) -> MatrixCell:
        return _framework_cell(base[name], by_mode, machine, name in installed)

    of_modes = [
        MatrixRow("mode", mode, {name: cell(name, {mode: vary}) for name in base}) for mode, vary in modes.items()
    ]
    rows = list(of_modes)
    for setting, value, vary in _variations(options, base):
        cells = {}
        for name in base:
            its_modes = [row.value for row in of_modes if row.cells[name].here or row.cells[name].elsewhere]
            by_mode = {
                mode: _both(modes[mode], vary)
                for mode in its_modes
                if setting != "lora_on_lm_head" or options["mode"][mode].rank is not None
            }
            cells[name] = cell(name, by_mode)
        rows.append(MatrixRow(setting, value, cells))
    return rows


def _framework_cell(
    experiment: Experiment, by_mode: Mapping[str, Variation], machine: Machine, installed: bool
) -> MatrixCell:
    other = replace(machine, device="cuda" if machine.device == "cpu" else "cpu", supports_bf16=True, num_devices=2**16)
    here, elsewhere, reasons = [], [], {}
    for mode, vary in by_mode.items():
        tried = _at_every_precision(vary(experiment))
        why = {each.device: [why_not(asked, each) for asked in tried] for each in (machine, other)}
        supported = [asked for asked, against in zip(tried, why[machine.device], strict=True) if against is None]
        lacking = not_installed(supported[0], machine) if installed and supported else None
        reason: str | None = None
        if lacking is not None:
            reason = lacking
        elif supported:
            here.append(mode)
            reason = why[machine.device][0]
        elif None in why[other.device]:
            elsewhere.append(mode)
        else:
            # A CPU lacks more. A reason given at most precisions isn't about the precision; `auto`, the first, is one of them.
            reason = Counter(reversed(why["cuda"])).most_common(1)[0][0]
        if reason is not None:
            reasons[mode] = reason.removeprefix(f"{experiment.framework.name} ")
    return MatrixCell(here, elsewhere, reasons)


def _at_every_precision(experiment: Experiment) -> list[Experiment]:
    """The experiment at its precision; if that is `auto`, at each precision."""
    tried = PRECISIONS if experiment.precision == "auto" else (experiment.precision,)
    return [replace(experiment, precision=precision) for precision in tried]


def _target(experiment: Experiment, machine: Machine) -> Target:
    precision = resolve_precision(experiment.precision, machine)
    return Target(experiment, machine, precision, experiment.framework.engine)


def why_not(experiment: Experiment, machine: Machine) -> str | None:
    """The reason why the experiment can't run on the machine, in a run's words; None if it can."""
    try:
        check(_target(experiment, machine))
    except ConfigError as error:
        return error.problem
    except (support.Unsupported, Unavailable) as reason:
        return str(reason)
    return None


def not_installed(experiment: Experiment, machine: Machine) -> str | None:
    """The reason why an experiment that is supported would be `not_installed`; None if it wouldn't."""
    try:
        check_installed(_target(experiment, machine), responds)
    except engines.NotInstalled as reason:
        return str(reason)
    return None


def _variations(options: Options, base: Mapping[str, Experiment]) -> Iterator[tuple[str, str, Variation]]:
    """(setting, value, variation) for every setting in which the frameworks differ, except the mode."""
    for group in (each for each in FRAMEWORK_GROUPS if each != "mode"):
        for name, option in options[group].items():
            yield group, name, _set(**{group: option})
    yield "data.padding", "longest", _set(data=replace(options["data"]["jsonl"], padding="longest"))
    for precision in RESOLVED_PRECISIONS:
        yield "precision", precision, _set(precision=precision)
    for attention in ATTENTIONS:
        yield "attention", attention, _set(attention=attention)
    for optimizer in dict.fromkeys(
        each for experiment in base.values() for each in experiment.framework.when.get("optimizer", {})
    ):
        yield "optimizer", optimizer, _set(optimizer=optimizer)
    yield "torch_compile", "true", _set(torch_compile=True)
    yield "liger_kernel", "true", _set(liger_kernel=True)
    for switch in (field.name for field in fields(Liger)):
        other = not getattr(next(iter(base.values())).liger, switch)
        yield f"liger.{switch}", str(other).lower(), _flipped(switch)
    yield "lora_on_lm_head", "true", _on_lm_head
    yield "comparison", "defaults", _set(comparison="defaults")


def _set(**settings: Any) -> Variation:
    return lambda experiment: replace(experiment, **settings)


def _both(first: Variation, second: Variation) -> Variation:
    return lambda experiment: second(first(experiment))


def _flipped(switch: str) -> Variation:
    """Flip one of Liger's kernels; turn off the other loss, since the two exclude each other."""

    def vary(experiment: Experiment) -> Experiment:
        liger = replace(experiment.liger, **{switch: not getattr(experiment.liger, switch)})
        if liger.cross_entropy:
            liger = replace(liger, fused_linear_cross_entropy=False)
        return replace(experiment, liger_kernel=True, liger=liger)

    return vary


def _on_lm_head(experiment: Experiment) -> Experiment:
    targets = [*(experiment.mode.target_modules or []), "lm_head"]
    return replace(experiment, mode=replace(experiment.mode, target_modules=targets))
