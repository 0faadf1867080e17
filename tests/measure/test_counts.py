"""The counts beside the count: how far they are apart, and what a difference is put down to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mfubench.config import ConfigError, Experiment
from mfubench.config.validate import validate
from mfubench.flops.crosscheck import compare_counts, contradictions, second_count_in_words
from mfubench.flops.step import profile_of, step_flops
from mfubench.measure.figures import InSitu
from mfubench.measure.in_situ import in_situ
from mfubench.records.reading import MicroBatch, RankRecord, Records, StepFlops

SMALL = (
    "model.architecture.hidden_size=96",
    "model.architecture.intermediate_size=96",
    "model.architecture.num_hidden_layers=2",
    "model.architecture.vocab_size=256",
    "batch_size=2",
    "sequence_length=128",
)
OF_ALL, OF_HALF = MicroBatch(2, 128, 256, 256), MicroBatch(2, 128, 256, 128)  # positions that have a label


def rank_of(rank: int, flops: int | None, *batches: MicroBatch, uncounted: dict[str, int] | None = None) -> RankRecord:
    """A rank that counted one step of these micro-batches."""
    by_operator = {} if flops is None else {"aten::mm": flops}
    counted = StepFlops(flops, by_operator, uncounted or {}, batches)
    return RankRecord(rank, 1, (), (), None, (), None, None, {}, {}, (), step_flops=counted)


def seen(experiment: Experiment, flops: int, *batches: MicroBatch) -> InSitu:
    found = in_situ(Records((rank_of(0, flops, *batches),)), experiment)
    assert found is not None
    return found


@pytest.fixture
def asked(compose: Callable[..., Experiment]) -> Callable[..., Experiment]:
    return lambda *overrides: compose(*SMALL, *overrides)


def test_the_closed_form_of_a_step_is_its_micro_batches_together(asked: Callable[..., Experiment]) -> None:
    one, three = asked("mode=lora"), asked("mode=lora", "gradient_accumulation_steps=3")
    second, thrice = compare_counts(one, step_flops(one)), compare_counts(three, step_flops(three))
    assert second is not None and thrice is not None
    assert (second.apart, thrice.apart) == (0, 0)
    assert thrice.figures == second.figures.scaled(3)
    assert second_count_in_words(one, second).startswith("0.00% apart")
    assert contradictions(step_flops(one), second) == ()


def test_figures_more_than_a_thousandth_apart_contradict_each_other(asked: Callable[..., Experiment]) -> None:
    experiment = asked()
    traced = step_flops(experiment)
    second = compare_counts(experiment, traced)
    assert second is not None
    more = replace(traced, hardware_flops=round(traced.hardware_flops * 1.0009), trainable_parameters=10)
    (difference,) = contradictions(more, second)
    assert difference.what.startswith("trainable_parameters of a step")
    assert (difference.asked, difference.seen) == (f"{traced.trainable_parameters:,} by closed form", "10 traced")


def test_a_model_without_a_closed_form_has_one_count_and_says_so(compose: Callable[..., Experiment]) -> None:
    experiment = compose("model=mixtral-8x7b", "model.architecture.model_type=granite")
    assert second_count_in_words(experiment, None).startswith("none: model_type=granite is none of ")


def test_a_step_as_counted_needs_no_explanation(asked: Callable[..., Experiment]) -> None:
    experiment = asked()
    expected = profile_of(experiment).of(2, 128).hardware_flops + profile_of(experiment).of(2, 64).hardware_flops
    found = seen(experiment, expected, OF_ALL, MicroBatch(2, 64, 128, 128))
    assert (found.flops, found.expected_flops, found.apart, found.explanation) == (expected, expected, 0, None)


@pytest.mark.parametrize("kind", ["none", "reentrant", "non_reentrant"])
def test_another_kind_of_recomputation_is_named(asked: Callable[..., Experiment], kind: str) -> None:
    experiment = asked("gradient_checkpointing=" + {"none": "reentrant"}.get(kind, "none"))
    found = seen(experiment, profile_of(asked(f"gradient_checkpointing={kind}")).of(2, 128).hardware_flops, OF_ALL)
    assert found.explanation == f"it recomputes as gradient_checkpointing={kind}"


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (OF_HALF, "it is as if lm_head was computed for 128 of 256 positions, those with a label"),
        (OF_ALL, "it is as if lm_head was computed for 128 of 256 positions"),
    ],
)
def test_positions_that_lm_head_was_spared_are_counted(
    asked: Callable[..., Experiment], batch: MicroBatch, words: str
) -> None:
    experiment = asked()
    assert (
        seen(experiment, profile_of(experiment).of(2, 128, trained_tokens=128).hardware_flops, batch).explanation
        == words
    )


def test_two_reasons_are_both_given(asked: Callable[..., Experiment]) -> None:
    recomputing = profile_of(asked("gradient_checkpointing=reentrant"))
    found = seen(asked(), recomputing.of(2, 128, trained_tokens=16).hardware_flops, MicroBatch(2, 128, 256, 16))
    assert found.explanation == (
        "it recomputes as gradient_checkpointing=reentrant and it is as if lm_head was computed for 16 of 256 positions, "
        "those with a label"
    )


def test_recomputation_that_the_probe_did_not_see_explains_nothing(asked: Callable[..., Experiment]) -> None:
    """A chunked loss: all positions that have a next one, whose logits are made twice; by hand 4 products of 254 positions
    instead of 3 of 256, each of 2 x 96 x 256 FLOPs."""
    flops = profile_of(asked()).of(2, 128).hardware_flops + (4 * 254 - 3 * 256) * 2 * 96 * 256
    told = replace(rank_of(0, flops, OF_ALL), work={"recomputation": "none"})
    found = in_situ(Records((told,)), asked())
    assert found is not None and found.explanation == (
        "lm_head's logits were computed again in the backward pass and it is as if lm_head was computed for 254 of 256 "
        "positions, those that have a next one"
    )
    recomputing = profile_of(asked("gradient_checkpointing=reentrant")).of(2, 128).hardware_flops
    told = replace(rank_of(0, recomputing, OF_ALL), work={"recomputation": "none"})
    found = in_situ(Records((told,)), asked())
    assert found is not None and found.explanation is None


def test_attention_of_another_kernel_is_known_by_its_products(asked: Callable[..., Experiment]) -> None:
    long = ("sequence_length=1024", "batch_size=1")
    fused, eager = asked(*long), asked(*long, "attention=eager")
    batch = MicroBatch(1, 1024, None, None)
    found = seen(fused, profile_of(eager).of(1, 1024).hardware_flops, batch)
    assert found.apart is not None and found.apart < -0.01
    assert found.explanation == "attention ran as separate products (eager, or SDPA's math kernel)"
    found = seen(eager, profile_of(fused).of(1, 1024).hardware_flops, batch)
    assert found.explanation == "attention ran in a fused kernel"
    nothing = replace(profile_of(fused), executed_attention=())
    found = seen(fused, nothing.of(1, 1024).hardware_flops, batch)
    assert found.explanation == "attention ran in a kernel that can't be seen"


def test_what_nothing_known_makes_is_left_open(asked: Callable[..., Experiment]) -> None:
    experiment = asked()
    found = seen(experiment, profile_of(experiment).of(2, 128).hardware_flops * 3 + 1, OF_ALL)
    assert (found.explanation, found.apart) == (None, pytest.approx(2))


def test_the_figure_is_the_mean_of_the_ranks_and_lacks_where_one_lacks(asked: Callable[..., Experiment]) -> None:
    experiment = asked()
    expected = profile_of(experiment).of(2, 128).hardware_flops
    ranks = rank_of(0, expected, OF_ALL, uncounted={"x::y": 2}), rank_of(1, expected + 100, OF_ALL)
    found = in_situ(Records(ranks), experiment)
    assert found is not None
    assert (found.flops, found.expected_flops, found.uncounted) == (expected + 50, expected, {"x::y": 1})
    hidden = in_situ(Records((ranks[0], rank_of(1, None, OF_ALL))), experiment)
    assert hidden is not None and (hidden.flops, hidden.apart) == (None, None)
    assert in_situ(Records((ranks[0], replace(ranks[1], step_flops=None))), experiment) is None


def test_the_counted_step_must_be_a_warm_up_step(compose: Callable[..., Experiment]) -> None:
    validate(compose("measurement=quick", "measurement.profile_flops=true", "measurement.warmup_steps=3"))
    with pytest.raises(ConfigError, match="the second, and one must follow it") as error:
        validate(compose("measurement=quick", "measurement.profile_flops=true"))
    screen = error.value.screen(["measurement=quick", "measurement.profile_flops=true"])
    right = "python -m mfubench measurement=quick measurement.profile_flops=true measurement.warmup_steps=3"
    assert screen.splitlines()[-1].split(maxsplit=1) == ["try", right]
