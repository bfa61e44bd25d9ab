"""``--recover distill``: what ``prune`` or ``quantize`` made, trained to answer as the input model does.

Labels are not used. Training sees none of the samples that judge; its result is kept where they say it is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from onnxopt.commands.prune_report import Outcome
from onnxopt.core.io import save_scratch
from onnxopt.core.plugins import optional
from onnxopt.core.query import Model, input_specs
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset
from onnxopt.errors import ModelError, NothingChangedError, VerificationError
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.evaluate.verify import verify
from onnxopt.measurement.paired import compare_latency
from onnxopt.passes.base import Context
from onnxopt.quantization.search.auto import Attempts, Search, worth_restoring
from onnxopt.quantization.search.candidates import Candidate, best, judge
from onnxopt.recover.augment import image_axes
from onnxopt.recover.hook import Distilled, recover_by_distillation
from onnxopt.recover.options import Training
from onnxopt.run.session import Feeds

__all__ = ["Recovery", "check_recovery", "distilled_forms", "distilled_outcome"]

Recovery: TypeAlias = Literal["distill"]

UNLABELLED = Training(teacher_weight=1.0, temperature=3.0, steps=200, batch=64, patience=0)
"""The recipe: what the teacher says, and nothing else. Images are moved a little, which keeps small sets from being
learnt by heart: a ResNet at a quarter of its work, 2048 samples: top-1 .597 -> .637 with it, .622 without."""
GENTLE = 0.3
"""Of the usual learning rate: what comes from closed-form repair is near a good place already."""
SUFFIX = ", distilled"
TIME_LIMIT_S = 600.0
"""Of one training where no other limit is given."""
LEAST_SAMPLES = 256
"""Fewer than these are said to be few."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model after its training, and what is said of it.

    Attributes:
        result: What training came to; ``None``: the model cannot be trained.
        path: File of the trained model.
        note: For the report.
    """

    result: Distilled | None
    path: Path
    note: Note


def check_recovery(recover: Recovery | None) -> None:
    """Raises where distillation is asked for and torch is missing, before any work is done.

    Raises:
        MissingExtraError: torch is not installed.
    """
    if recover is not None:
        optional("torch", "torch")


def distilled_outcome(
    outcome: Outcome, reference: Path, scorer: Scorer, feeds: Sequence[Feeds], ctx: Context, time_limit: float
) -> tuple[Outcome, Training | None, Note]:
    """The outcome of a pruning with the chosen model trained; as it was where that is not better.

    Args:
        outcome: What the search came to, with a model.
        reference: File of the input model, the teacher.
        scorer: Judges on held-back samples.
        feeds: Inputs to check and to time on.
        ctx: Data to train on, target, folder, seed.
        time_limit: Seconds after which training ends.
    """
    pruned = outcome.made
    name = f"{pruned.name}{SUFFIX}"
    trained = _trained(name, pruned.model, reference, feeds, ctx, time_limit)
    if trained.result is None:
        return outcome, None, trained.note
    comparison = scorer.compare(trained.path)
    if not _is_better(comparison, pruned.comparison):
        return outcome, None, _not_better(trained.note, comparison, pruned.comparison)
    better = replace(pruned, name=name, model=trained.result.model, path=trained.path, comparison=comparison)
    measured = compare_latency(reference, trained.path, feeds, ctx.target, seed=ctx.seed, progress=ctx.progress)
    chosen = replace(outcome.chosen, pruned=better)
    return replace(outcome, chosen=chosen, measured=measured), trained.result.recipe, trained.note


def distilled_forms(attempts: Attempts, search: Search, training: Dataset, time_limit: float | None) -> Attempts:
    """The attempts and, trained: the forms that are over the budget and faster than what is within it, else the best.

    Args:
        attempts: What the search came to.
        search: The search: model, budget, samples to judge by.
        training: Data to train on.
        time_limit: Seconds after which one training ends.
    """
    leader = best(attempts.candidates)
    forms = worth_restoring(attempts.candidates) or ([leader] if leader is not None else [])
    ctx = replace(search.ctx, data=training)
    found: list[Candidate] = []
    for form in forms:
        if form.model is None or form.comparison is None or form.repaired is not None or search.budget.spent():
            continue
        name = f"{form.name}{SUFFIX}"
        trained = _trained(name, form.model, search.reference, search.feeds, ctx, time_limit or TIME_LIMIT_S)
        built = replace(form, name=name, path=trained.path, notes=(trained.note,), comparison=None, latency=None)
        if trained.result is None:
            found.append(replace(built, model=None, outcome="invalid", reason=trained.note.reason))
            continue
        built = replace(built, model=trained.result.model, further=(trained.result.recipe,))
        args = search.reference, search.scorer, search.feeds, search.max_drop, search.ctx, search.place, search.budget
        found.append(judge(built, *args))
    return replace(attempts, candidates=(*attempts.candidates, *found))


def _trained(
    name: str, model: Model, reference: Path, feeds: Sequence[Feeds], ctx: Context, time_limit: float
) -> Trained:
    path = ctx.workdir / f"{name}.onnx"
    images = image_axes(input_specs(model), ())
    recipe = replace(UNLABELLED, seed=ctx.seed, augment=("shift",) if images else ())
    try:
        found = recover_by_distillation(model, reference, ctx, recipe, time_limit=time_limit, gentle=GENTLE)
        save_scratch(found.model, path)
        verify(reference, path, feeds, ctx.target, exact=False)
    except (ModelError, NothingChangedError, VerificationError) as error:
        return Trained(None, path, Note(name, "not trained", f"{error.what} ({error.where})"))
    count = len(ctx.data or ())
    text = f"{found.steps} steps on {count} samples, the best was step {found.best_step}"
    few = f"; {LEAST_SAMPLES} and more teach better" if count < LEAST_SAMPLES else ""
    return Trained(found, path, Note(name, "trained", text + few))


def _is_better(after: Comparison, before: Comparison) -> bool:
    """By the drop to be expected on unseen samples where it is known, which is less a matter of luck than the drop."""
    if after.expected_drop is not None and before.expected_drop is not None:
        return (after.expected_drop, after.drop) < (before.expected_drop, before.drop)
    return after.drop < before.drop


def _not_better(note: Note, after: Comparison, before: Comparison) -> Note:
    scores = f"{after.metric} {before.candidate_score:.4g} -> {after.candidate_score:.4g}"
    return replace(note, verdict="declined", reason=f"{note.reason}; not better on held-back samples ({scores})")
