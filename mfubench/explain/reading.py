"""Say in words what stands out in a waterfall: figures alone."""

from __future__ import annotations

from mfubench.explain.waterfall import StepTime, Waterfall

SENTENCES = 3
LEAST = 0.03  # of the peak, for a term to stand out


def reading(found: Waterfall, time: StepTime) -> list[str]:
    """Return at most three sentences, of the largest terms first."""
    shares = {name: seconds / time.seconds for name, seconds in time.categories.items()}
    terms = {**found.executed, **found.needed}
    products = shares.get("matmul", 0.0) + shares.get("attention", 0.0)
    apart = ("clock", "matmul", "attention", "idle", "communication")
    rest = {name: shares.get(name, 0.0) for name in found.executed if name not in apart}
    largest = max(rest, key=lambda name: rest[name], default="")
    peak = "the peak at the run's clock" if "clock" in found.executed else "the peak"
    weighted = [
        (
            sum(terms[name] for name in rest),
            f"{sum(rest.values()):.0%} of the step is work other than matmul, attention and communication; the largest "
            f"part of it is {largest}, {rest.get(largest, 0.0):.0%}.",
        ),
        (
            terms.get("idle", 0.0),
            f"Idle, with nothing running on the device, is {shares.get('idle', 0.0):.0%} of the step "
            f"({time.categories.get('idle', 0.0) * 1e3:.1f} ms).",
        ),
        (
            terms.get("communication", 0.0),
            f"Communication that no computation hides is {shares.get('communication', 0.0):.0%} of the step.",
        ),
        (
            terms["matmul"],
            f"Matmuls are {shares.get('matmul', 0.0):.0%} of the step and run at {found.matmul_rate or 0.0:.0%} of {peak}.",
        ),
        (
            terms["attention"],
            f"Attention is {shares.get('attention', 0.0):.0%} of the step, {products:.0%} together with matmul.",
        ),
        (
            terms["recomputation"],
            f"Recomputation is {terms['recomputation'] / max(found.hfu_causal, 1e-12):.0%} of the FLOPs executed.",
        ),
    ]
    return [said for points, said in sorted(weighted, key=lambda each: -each[0]) if points >= LEAST][:SENTENCES]
