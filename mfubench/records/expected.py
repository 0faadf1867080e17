"""The work expected of a run, and its differences from the records: the data of `invariants` and `work_check`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """The work expected of a run. None: not known, so not compared."""

    num_ranks: int
    micro_batch_shape: tuple[int, int] | None  # [batch, sequence]; the longest sequence if it varies
    micro_batches_per_step: int | None
    periods: int  # step periods needed on every rank
    trainable_parameters: int | None
    recomputation: str | None  # none | reentrant | non_reentrant
    wrapper: str | None  # class name of the parallel wrapper around the model; None: there must be none
    attention: str | None = None  # as the model's config names it
    liger_kernels: frozenset[str] | None = None  # exactly the Liger switches in effect
    torch_compile: bool | None = None
    device: str | None = None  # cpu | cuda
    threads: int | None = None  # of a rank on a CPU, as when its peak was measured
    parameters: int | None = None  # frozen ones included
    linear_dtype: str | None = None  # of most weights' products: float32 | bfloat16
    quantization: str | None = None  # of frozen 4-bit weights: nf4 | fp4 | none
    tf32: bool | None = None  # True: CUDA's fp32 products may use it
    recomputed_blocks: int | None = None  # the model's layers
    optimizer_dtype: str | None = None  # of the optimizer's parameters and state: float32 | bfloat16
    optimizer: str | None = None  # by the setting's value
    seed: int | None = None  # of the framework's random numbers
    zero_stage: int | None = None  # of DeepSpeed
    sequence_varies: bool = False  # True: sequences may be shorter than micro_batch_shape


@dataclass(frozen=True)
class Difference:
    """One difference between the expected and the recorded work; the field names are result.json's."""

    what: str
    asked: str
    seen: str
