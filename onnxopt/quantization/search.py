"""Which quantized form of a model to return: the fastest that keeps the accuracy, if any beats float at all.

Every candidate is built, checked, run on held-back data and measured against the input model in interleaved pairs; the
input model is itself a candidate, so what is returned was seen to be faster and within the budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from onnxopt.core.io import save
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.errors import ModelError, VerificationError
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.evaluate.drift import collapsed
from onnxopt.evaluate.verify import verify
from onnxopt.measurement.paired import LatencyComparison, compare_latency
from onnxopt.passes.base import Context, Pass
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.portability.deployment import Deployment
from onnxopt.quantization.portability.repair import Repaired, repair
from onnxopt.quantization.select import COMPUTE
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds

__all__ = ["Candidate", "Outcome", "best", "try_candidate"]


Outcome: TypeAlias = Literal["faster", "not faster", "undecided", "inaccurate", "invalid", "unchanged", "not tried"]
AS_FAST = 1.02
"""Candidates whose latency is within this factor of the fastest count as just as fast."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One quantized form and what was found out about it.

    Attributes:
        name: What people call it.
        item: The pass that made it.
        model: The model, ``None`` when it could not be built.
        path: Its file.
        changes: Nodes that run on integers.
        outcome: What rules it out, or ``"faster"``.
        reason: The figures behind the outcome.
        comparison: Accuracy against the input model.
        latency: Latency against the input model.
        notes: Nodes that stay float, with the reason.
        repaired: What becomes of it on CPUs without VNNI, where it is to run on such.
    """

    name: str
    item: Pass
    model: Model | None
    path: Path
    changes: int
    outcome: Outcome
    reason: str
    comparison: Comparison | None = None
    latency: LatencyComparison | None = None
    notes: tuple[Note, ...] = ()
    repaired: Repaired | None = None


def try_candidate(
    name: str,
    item: Pass,
    model: Model,
    reference: Path,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    max_drop: float,
    ctx: Context,
    place: Deployment,
) -> Candidate:
    """Builds, checks, judges and measures one candidate, stopping at the first thing that rules it out.

    Args:
        name: What people call it; also names its file.
        item: The pass that quantizes.
        model: The cleaned-up float model; it is not changed.
        reference: File of the input model.
        scorer: Judges accuracy on held-back samples.
        feeds: Inputs to verify and to measure on.
        max_drop: Largest drop of the metric (its point estimate; the bound is reported beside it).
        ctx: Calibration data, target, folder.
        place: Where it is to run; where that is not here, its speed stays unknown.
    """
    path = ctx.workdir / f"{name}.onnx"
    try:
        result = item.run(model.clone(), ctx)
    except ModelError as error:
        return Candidate(name, item, None, path, 0, "invalid", error.what)
    if not result.changes:
        return Candidate(name, item, None, path, 0, "unchanged", _declined(result.notes), notes=result.notes)
    save(result.model, path)
    repaired, judged = None, path
    if place.saturates and isinstance(item, (StaticQuantize, DynamicQuantize)):
        repaired = repair(item, model, result, path, feeds, ctx)
        item, result = repaired.item, repaired.result
        judged = path if place.is_here else repaired.after.path

    def conclude(outcome: Outcome, reason: str, *found: Comparison | LatencyComparison) -> Candidate:
        comparison = next((f for f in found if isinstance(f, Comparison)), None)
        latency = next((f for f in found if isinstance(f, LatencyComparison)), None)
        notes = (*result.notes, *(repaired.notes if repaired is not None else ()))
        return Candidate(
            name, item, result.model, path, result.changes, outcome, reason, comparison, latency, notes, repaired
        )

    try:
        verify(reference, path, feeds, ctx.target, exact=False)
    except VerificationError as error:
        return conclude("invalid", f"{error.what} ({error.where})")
    comparison = scorer.compare(judged)
    drop = f"{comparison.metric} drops by {comparison.drop:.4g}"
    if comparison.relative:
        drop = f"{comparison.metric} grows by {comparison.drop:.2%} of itself"
    if not comparison.is_within(max_drop):
        return conclude("inaccurate", f"{drop}, the budget is {max_drop:g}", comparison)
    lost = None if scorer.is_chosen else collapsed(comparison.drift, judged=comparison.output)
    if lost is not None:
        return conclude("inaccurate", f"{drop}, but output {lost.name!r} is lost ({lost.sqnr_db:.1f} dB)", comparison)
    if not place.is_here:
        return conclude("undecided", f"{drop}; {place.not_here}", comparison)
    latency = compare_latency(reference, path, feeds, ctx.target, seed=ctx.seed, progress=ctx.progress)
    speed = f"{1 / latency.ratio:.2f}x as fast (ratio {latency.low:.3f} .. {latency.high:.3f}), {drop}"
    if latency.decision == "faster":
        return conclude("faster", speed, comparison, latency)
    if latency.decision == "inconclusive":
        return conclude("undecided", speed, comparison, latency)
    doubt = ", too uncertain to call it faster" if latency.ratio < 1 else ""
    return conclude("not faster", speed + doubt, comparison, latency)


def _declined(notes: Sequence[Note]) -> str:
    """Why no node was changed, the commonest reasons first."""
    if not notes:
        return f"the model has no {', '.join(sorted(COMPUTE))}"
    counts = Counter(note.reason for note in notes)
    return "no node can run on integers: " + "; ".join(f"{n}x {reason}" for reason, n in counts.most_common(3))


def best(candidates: Sequence[Candidate]) -> Candidate | None:
    """The fastest candidate that was seen to be faster and accurate enough; of equally fast ones the most accurate."""
    faster = {c: c.latency.ratio for c in candidates if c.outcome == "faster" and c.latency is not None}
    as_fast = [c for c, ratio in faster.items() if ratio <= min(faster.values()) * AS_FAST]
    return min(as_fast, key=lambda c: c.comparison.drop if c.comparison else 0.0, default=None)
