"""The work expected of a run, and its differences from the records: nouns of `invariants` and `work_check`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """The work expected of a run. None: not known, so not compared."""

    num_ranks: int
    micro_batch_shape: tuple[int, int]  # [batch, sequence]; the longest sequence where it varies
    micro_batches_per_step: int
    periods: int  # step periods needed on every rank
    trainable_parameters: int
    recomputation: str | None  # none | reentrant | non_reentrant
    wrapper: str | None  # the class that must be around the model for parallel training; None: there must be none
    attention: str | None = None  # as the model's config names it
    liger_kernels: frozenset[str] | None = None  # Liger's switches that must be in effect, and no others
    torch_compile: bool | None = None
    device: str | None = None  # cpu | cuda
    threads: int | None = None  # of a rank on a CPU: what its peak was measured with
    parameters: int | None = None  # frozen ones too
    linear_dtype: str | None = None  # that most weights are multiplied in: float32 | bfloat16
    quantization: str | None = None  # of frozen weights in 4 bits: nf4 | fp4 | none
    tf32: bool | None = None  # whether CUDA's fp32 products may use it
    recomputed_blocks: int | None = None  # the model's layers
    optimizer_dtype: str | None = None  # of what the optimizer steps and of its state: float32 | bfloat16
    optimizer: str | None = None  # by the setting's value
    seed: int | None = None  # of the framework's random numbers
    zero_stage: int | None = None  # of DeepSpeed
    sequence_varies: bool = False  # sequences may be shorter than the shape's


@dataclass(frozen=True)
class Difference:
    """One difference between the expected and the recorded work; the field names are result.json's."""

    what: str
    asked: str
    seen: str
