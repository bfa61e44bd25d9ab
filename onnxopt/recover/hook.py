"""Distillation as a step of other commands; torch is imported when it runs."""

from __future__ import annotations

from pathlib import Path

from onnxopt.core.plugins import optional
from onnxopt.core.query import Model
from onnxopt.errors import DataError
from onnxopt.passes.base import Context
from onnxopt.recover.options import Training
from onnxopt.recover.samples import split_three

__all__ = ["recover_by_distillation"]


def recover_by_distillation(student: Model, teacher: Path, ctx: Context, options: Training) -> Model:
    """A copy of the student, trained on ``ctx.data`` to answer as the teacher does.

    A tenth of the data chooses the best step; where no step is better on it, the copy is equal to the student.

    Args:
        student: The model that lost something; it is not changed.
        teacher: The file of the model that it came from.
        ctx: Data, target, folder for intermediate files, progress.
        options: The recipe.

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
    run(course, ctx)
    result = student.clone()
    course.bridge.write(result)
    return result
