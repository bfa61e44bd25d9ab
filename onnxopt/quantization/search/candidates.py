"""Which quantized form of a model to return: the fastest that keeps the accuracy, if any beats float at all.

Every candidate is built, checked, run on held-back data and measured against the input model in interleaved pairs; the
input model is itself a candidate, so what is returned was seen to be faster and within the budget.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.errors import ModelError, VerificationError
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.evaluate.drift import collapsed
from onnxopt.evaluate.verify import verify
from onnxopt.measurement.paired import LatencyComparison, compare_latency
from onnxopt.passes.base import Context, Pass, Step
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.portability.deployment import Deployment
from onnxopt.quantization.portability.repair import Repaired, repair
from onnxopt.quantization.search.budget import Budget
from onnxopt.quantization.select import COMPUTE
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds
from onnxopt.run.settings import NO_SETTINGS, SessionSettings, write_settings

__all__ = ["Candidate", "Outcome", "best", "judge", "not_tried", "try_candidate"]


Outcome: TypeAlias = Literal[
    "faster",
    "smaller",
    "not faster",
    "not smaller",
    "undecided",
    "inaccurate",
    "invalid",
    "unchanged",
    "not tried",
]
AS_FAST = 1.02
"""Candidates whose latency is within this factor of the fastest count as just as fast."""
NEARLY_AS_FAST = 1.1
"""A candidate within this factor is taken instead when its outputs have clearly less error."""
CLEARLY_DB = 3.0
LEAST_OF_GAIN = 0.7
"""... and only where it keeps this share of the time that is saved: 1.03x is not nearly as fast as 1.12x."""
LARGE_DROP = 0.2
"""A budget that allows more than this is no advice."""


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
        base: The float model it was made from.
        fixes: Passes that were applied to that before.
        settings: Runtime settings with which it was judged and measured.
        repaired: What becomes of it on CPUs without VNNI, where it is to run on such.
        further: Steps of its recipe behind ``item``.
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
    base: Model | None = None
    fixes: tuple[Pass, ...] = ()
    settings: SessionSettings = NO_SETTINGS
    repaired: Repaired | None = None
    further: tuple[Step, ...] = ()

    @property
    def sqnr_db(self) -> float:
        """Signal over error of the output that is judged; minus infinity where it is not known."""
        found = [d for d in self.comparison.drift if d.name == self.comparison.output] if self.comparison else []
        return -math.inf if not found or found[0].sqnr_db is None else found[0].sqnr_db


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
    *,
    fixes: tuple[Pass, ...] = (),
    budget: Budget | None = None,
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
        fixes: What was applied to ``model`` already.
        budget: Counts the evaluation.
    """
    path = ctx.workdir / f"{name}.onnx"
    try:
        result = item.run(model.clone(), ctx)
    except ModelError as error:
        return Candidate(name, item, None, path, 0, "invalid", error.what)
    if not result.changes:
        return Candidate(name, item, None, path, 0, "unchanged", _declined(result.notes), notes=result.notes)
    save_scratch(result.model, path)
    repaired, notes = None, result.notes
    if place.saturates and isinstance(item, StaticQuantize | DynamicQuantize):
        repaired = repair(item, model, result, path, feeds, ctx)
        item, result = repaired.item, repaired.result
        notes = (*result.notes, *repaired.notes)
    built = Candidate(
        name,
        item,
        result.model,
        path,
        result.changes,
        "not tried",
        "",
        notes=notes,
        base=model,
        fixes=fixes,
        repaired=repaired,
    )
    return judge(built, reference, scorer, feeds, max_drop, ctx, place, budget)


def judge(
    built: Candidate,
    reference: Path,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    max_drop: float,
    ctx: Context,
    place: Deployment,
    budget: Budget | None = None,
) -> Candidate:
    """The candidate, whose file is there, with what checks, accuracy and latency say of it."""
    write_settings(built.path, built.settings)
    try:
        verify(reference, built.path, feeds, ctx.target, exact=False)
    except VerificationError as error:
        return replace(built, outcome="invalid", reason=f"{error.what} ({error.where})")
    if budget is not None:
        budget.spend()
    simulated = built.repaired is not None and not place.is_here
    comparison = scorer.compare(built.repaired.after.path if built.repaired and simulated else built.path)
    drop = _said(comparison)
    judged = replace(built, comparison=comparison)
    if not comparison.promises(max_drop):
        return replace(judged, outcome="inaccurate", reason=f"{drop}, the budget is {max_drop:g}{_hint(comparison)}")
    lost = None if scorer.is_chosen else collapsed(comparison.drift, judged=comparison.output)
    if lost is not None:
        reason = f"{drop}, but output {lost.name!r} is lost ({lost.sqnr_db:.1f} dB)"
        return replace(judged, outcome="inaccurate", reason=reason)
    if not place.is_here:
        return replace(judged, outcome="undecided", reason=f"{drop}; {place.not_here}")
    latency = compare_latency(reference, built.path, feeds, ctx.target, seed=ctx.seed, progress=ctx.progress)
    speed = f"{1 / latency.ratio:.2f}x as fast (ratio {latency.low:.3f} .. {latency.high:.3f}), {drop}"
    measured = replace(judged, latency=latency)
    if latency.decision == "faster":
        return replace(measured, outcome="faster", reason=speed)
    if latency.decision == "inconclusive":
        return replace(measured, outcome="undecided", reason=speed)
    doubt = ", too uncertain to call it faster" if latency.ratio < 1 else ""
    return replace(measured, outcome="not faster", reason=speed + doubt)


def not_tried(name: str, item: Pass, why: str, ctx: Context) -> Candidate:
    """The candidate that was left out, with the reason."""
    return Candidate(name, item, None, ctx.workdir / name, 0, "not tried", why)


def _said(found: Comparison) -> str:
    """The drop, and what margins and errors let expect of unseen samples where that is more."""
    if found.relative:
        return f"{found.metric} grows by {found.drop:.2%} of itself"
    text = f"{found.metric} drops by {found.drop:.4g}"
    expected, error = found.expected_drop, found.expected_error
    if expected is None or error is None or found.cautious_drop <= found.drop:
        return text
    return f"{text}, on unseen samples by about {expected:.2g} (give or take {error:.2g})"


def _hint(found: Comparison) -> str:
    """The smallest budget of two digits that the drop, and the expected one, are within; none where they are large."""
    drop = found.cautious_drop
    if found.relative or not 0 < drop <= LARGE_DROP:
        return ""
    digit = 10.0 ** (math.floor(math.log10(drop)) - 1)
    return f" (--max-drop {math.ceil(drop / digit - 1e-6) * digit:.6g} would accept it)"


def _declined(notes: Sequence[Note]) -> str:
    """Why no node was changed, the commonest reasons first."""
    if not notes:
        return f"the model has no {', '.join(sorted(COMPUTE))}"
    counts = Counter(note.reason for note in notes)
    return "no node can be changed: " + "; ".join(f"{n}x {reason}" for reason, n in counts.most_common(3))


def best(candidates: Sequence[Candidate]) -> Candidate | None:
    """The fastest candidate that was seen to be faster and accurate enough.

    Of equally fast ones the most accurate; one that is nearly as fast is taken when its error is clearly lower: at most
    half, the luck of the metric aside.
    """
    faster = {c: c.latency.ratio for c in candidates if c.outcome == "faster" and c.latency is not None}
    if not faster:
        return None
    least = min(faster.values())
    as_fast = [c for c, ratio in faster.items() if ratio <= least * AS_FAST]
    chosen = min(as_fast, key=lambda c: c.comparison.drop if c.comparison else 0.0)
    slowest = min(least * NEARLY_AS_FAST, 1 - (1 - least) * LEAST_OF_GAIN)
    nearly = [c for c, ratio in faster.items() if ratio <= slowest] or [chosen]
    cleaner = max(nearly, key=lambda c: c.sqnr_db)
    no_worse = _drop(cleaner) <= max(_drop(chosen), 0.0)
    return cleaner if cleaner.sqnr_db >= chosen.sqnr_db + CLEARLY_DB and no_worse else chosen


def _drop(candidate: Candidate) -> float:
    return candidate.comparison.drop if candidate.comparison else 0.0
