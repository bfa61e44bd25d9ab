"""``--recover distill``: what ``prune`` or ``quantize`` made, trained to answer as the input model does.

Labels are not used. Training sees none of the samples that judge; its result is kept where they say it is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias

from onnxopt.commands.prune_report import Outcome
from onnxopt.commands.quantize_data import fitted_to
from onnxopt.core.io import save_scratch
from onnxopt.core.plugins import optional
from onnxopt.core.query import Model, input_specs
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, ModelError, NothingChangedError, VerificationError
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.evaluate.verify import verify
from onnxopt.passes.base import Context
from onnxopt.quantization.search.auto import Attempts, Search, worth_restoring
from onnxopt.quantization.search.candidates import Candidate, best, judge, not_tried
from onnxopt.recover.augment import image_axes
from onnxopt.recover.hook import IMAGE_PACE, RECOVERY, Distilled, recover_by_distillation
from onnxopt.recover.options import Training
from onnxopt.recover.samples import LEAST_TRAINED
from onnxopt.run.session import Feeds

__all__ = ["Recovery", "check_recovery", "check_samples", "distilled_forms", "distilled_outcome"]

Recovery: TypeAlias = Literal["distill"]

MOVED = ("shift",)
"""What is done to images: it keeps small sets from being learnt by heart."""
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


def check_samples(recover: Recovery | None, fitted: Dataset, held_back: Dataset, eval_data: str | None) -> None:
    """Raises where distillation is asked for and too few samples are left for it, before any search.

    Args:
        recover: How accuracy is recovered.
        fitted: Samples to fit to, and to train on; made-up ones are left to ``distilled_forms``.
        held_back: Samples that judge.
        eval_data: Where they come from, when not from the same data.

    Raises:
        DataError: There are too few.
    """
    if recover is None or fitted.synthetic or len(fitted) >= LEAST_TRAINED:
        return
    given, needed = len(fitted), LEAST_TRAINED
    if eval_data is None:
        given = len({*fitted.order, *held_back.order})
        needed = next(n for n in count(given) if fitted_to(n) >= LEAST_TRAINED)
    raise DataError(
        f"too few samples to train on: {given} given, {len(fitted)} left for training after {given - len(fitted)} held "
        f"back to judge by, {needed} given ones are needed",
        where=f"--recover {recover}, {fitted.source}",
        fix=f"give {needed} or more ({LEAST_SAMPLES} and more teach better), or leave --recover out",
    )


def distilled_outcome(
    outcome: Outcome, reference: Path, scorer: Scorer, feeds: Sequence[Feeds], ctx: Context, time_limit: float
) -> tuple[Outcome, Training | None, Note]:
    """The outcome of a pruning with the chosen model trained; as it was where that is not better.

    What was measured stays: it has decided which model is chosen, and training changes the values of weights alone,
    not the graph and its shapes.

    Args:
        outcome: What the search came to, with a model.
        reference: File of the input model, the teacher.
        scorer: Judges on held-back samples.
        feeds: Inputs to check on.
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
    return replace(outcome, chosen=replace(outcome.chosen, pruned=better)), trained.result.recipe, trained.note


def distilled_forms(attempts: Attempts, search: Search, training: Dataset, time_limit: float | None) -> Attempts:
    """The attempts and, trained: the forms that are over the budget and faster than what is within it, else the best.

    What is not trained is among them with the reason.

    Args:
        attempts: What the search came to.
        search: The search: model, budget, samples to judge by.
        training: Data to train on.
        time_limit: Seconds after which one training ends.
    """
    leader = best(attempts.candidates)
    forms = worth_restoring(attempts.candidates) or ([leader] if leader is not None else [])
    if not forms:
        why = "there is nothing to train: no form is over the budget, and none was measured to be faster"
        return replace(attempts, notes=(*attempts.notes, Note("distill", "not tried", why)))
    ctx = replace(search.ctx, data=training)
    found: list[Candidate] = []
    for form in forms:
        name = f"{form.name}{SUFFIX}"
        why = _why_not(form, search, training)
        if form.model is None or why is not None:
            found.append(not_tried(name, form.item, why or form.reason, search.ctx))
            continue
        trained = _trained(name, form.model, search.reference, search.feeds, ctx, time_limit or TIME_LIMIT_S)
        built = replace(form, name=name, path=trained.path, notes=(trained.note,), comparison=None, latency=None)
        if trained.result is None:
            found.append(replace(built, model=None, outcome="invalid", reason=trained.note.reason))
            continue
        built = replace(built, model=trained.result.model, further=(trained.result.recipe,))
        args = search.reference, search.scorer, search.feeds, search.max_drop, search.ctx, search.place, search.budget
        found.append(judge(built, *args))
    return replace(attempts, candidates=(*attempts.candidates, *found))


def _why_not(form: Candidate, search: Search, training: Dataset) -> str | None:
    """Why a form is not trained; ``None``: it is."""
    if training.synthetic:
        return "there are no inputs to train on: give --data"
    if form.repaired is not None:
        return "it is for CPUs without VNNI, on which sums can saturate: training does not compute that"
    return search.budget.spent()


def _trained(
    name: str, model: Model, reference: Path, feeds: Sequence[Feeds], ctx: Context, time_limit: float
) -> Trained:
    path = ctx.workdir / f"{name}.onnx"
    images = image_axes(input_specs(model), ())
    recipe = replace(RECOVERY, seed=ctx.seed, augment=MOVED if images else ())
    pace = IMAGE_PACE if images else 1.0
    try:
        found = recover_by_distillation(model, reference, ctx, recipe, time_limit=time_limit, pace=pace)
        save_scratch(found.model, path)
        verify(reference, path, feeds, ctx.target, exact=False)
    except (ModelError, NothingChangedError, VerificationError) as error:
        return Trained(None, path, Note(name, "not trained", f"{error.what} ({error.where})"))
    samples = len(ctx.data or ())
    text = f"{found.steps} steps on {samples} samples, the best was step {found.best_step}"
    few = f"; {LEAST_SAMPLES} and more teach better" if samples < LEAST_SAMPLES else ""
    return Trained(found, path, Note(name, "trained", text + few))


def _is_better(after: Comparison, before: Comparison) -> bool:
    """By the drop to be expected on unseen samples where it is known, which is less a matter of luck than the drop."""
    if after.expected_drop is not None and before.expected_drop is not None:
        return (after.expected_drop, after.drop) < (before.expected_drop, before.drop)
    return after.drop < before.drop


def _not_better(note: Note, after: Comparison, before: Comparison) -> Note:
    scores = f"{after.metric} {before.candidate_score:.4g} -> {after.candidate_score:.4g}"
    return replace(note, verdict="declined", reason=f"{note.reason}; not better on held-back samples ({scores})")
