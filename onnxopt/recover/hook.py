"""Distillation as a step of other commands; torch is imported when it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onnxopt.core.plugins import optional
from onnxopt.core.query import Model
from onnxopt.errors import DataError
from onnxopt.passes.base import Context
from onnxopt.recover.options import Training
from onnxopt.recover.samples import split_three

__all__ = ["IMAGE_PACE", "RECOVERY", "Distilled", "recover_by_distillation"]

RECOVERY = Training(teacher_weight=1.0, temperature=20.0, steps=400, batch=64, patience=0)
"""The recipe: what the teacher says, and nothing else.

At a temperature this high the KL divergence is nearly the squared error of centred logits: a student that is near its
teacher already learns more from it than from the likeliest classes alone. A ResNet at a half and a quarter of its work,
repaired on 256 samples (.645 and .550 of .725), 200 steps on 2048: .7105 and .671 at T = 20, .7075 and .663 at T = 3;
400 steps: .7195 and .682.
"""
IMAGE_PACE = 2.0
"""Times the usual learning rate, for networks on images: there, half of it gives back 1.5 points less, 1.5 times as
much is no better."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """A student after its training.

    Attributes:
        model: It, with the weights of the best step.
        recipe: How it was trained, with the hash of its teacher.
        steps: Steps that were done.
        best_step: The one whose weights it has; 0: no step was better than none.
        changed: Weights that are others than before.
    """

    model: Model
    recipe: Training
    steps: int
    best_step: int
    changed: int


def recover_by_distillation(
    student: Model,
    teacher: Path,
    ctx: Context,
    options: Training,
    *,
    time_limit: float | None = None,
    pace: float = 1.0,
) -> Distilled:
    """A copy of the student, trained on ``ctx.data`` to answer as the teacher does.

    A tenth of the data chooses the best step; where no step is better on it, the copy is equal to the student.

    Args:
        student: The model that lost something; it is not changed.
        teacher: The file of the model that it came from.
        ctx: Data, target, folder for intermediate files, progress.
        options: The recipe.
        time_limit: Seconds after which training ends.
        pace: Factor of the usual learning rate.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: There are no data, or too few.
        OnnxoptError: The student cannot be trained, or does not match the teacher.
    """
    optional("torch", "torch")
    from onnxopt.recover.distill import prepare, run

    if ctx.data is None or ctx.data.synthetic:
        raise DataError("distillation needs real inputs", where="--recover distill", fix="give --data")
    split = split_three(ctx.data, ctx.data, seed=options.seed)
    course = prepare(student, [teacher], split, options, ctx)
    course = replace(course, peak=pace * course.peak, recipe=replace(course.recipe, lr=pace * course.peak))
    state = run(course, ctx, time_limit=time_limit)
    result = student.clone()
    changed = course.bridge.write(result)
    return Distilled(result, course.recipe, state.step, state.best_step, changed)
