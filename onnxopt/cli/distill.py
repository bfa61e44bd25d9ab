"""``onnxopt distill STUDENT.onnx --teacher T.onnx --data D -o OUT``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.options import (
    PATH,
    NonNegative,
    data_options,
    finish,
    json_option,
    output_options,
    source,
    target_options,
)
from onnxopt.cli.training import run_options, training_options
from onnxopt.errors import UsageError

__all__ = ["command"]

LOSSES = ("auto", "kl", "mse", "cosine")


@click.command("distill")
@click.argument("student", type=PATH)
@click.option("--teacher", "teachers", type=PATH, multiple=True, metavar="T.onnx", help="May be given several times.")
@output_options
@click.option("--loss", type=click.Choice(LOSSES), default="auto", show_default=True)
@click.option("--temperature", type=NonNegative(min=0, min_open=True), default=2.0, show_default=True, metavar="T")
@click.option(
    "--teacher-weight",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    metavar="X",
    help="Share of the teacher in the loss where there are labels.",
)
@click.option("--match", multiple=True, metavar="VALUE[=TEACHERS]", help="Inner values that are to be alike too.")
@click.option("--feature-weight", type=NonNegative(min=0), default=1.0, show_default=True, metavar="X")
@training_options
@data_options
@target_options
@json_option
def command(
    student: Path,
    teachers: tuple[Path, ...],
    output: Path | None,
    loss: Any,
    temperature: float,
    teacher_weight: float,
    match: tuple[str, ...],
    feature_weight: float,
    **shared: Any,
) -> int:
    """Trains the weights of STUDENT to answer as the teachers do; exit 1 when that made it no better.

    STUDENT is any ONNX model with the inputs and outputs of the teachers: pruned, quantized (trained through fake
    quantization) or smaller. No labels are needed.
    """
    from onnxopt.commands.distill import distill

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt distill", fix="add -o OUT")
    pairs = tuple((own, other or own) for own, _, other in (m.partition("=") for m in match))
    report = distill(
        student,
        teachers,
        output,
        source(shared),
        **run_options(
            shared,
            loss=loss,
            temperature=temperature,
            teacher_weight=teacher_weight,
            features=pairs,
            feature_weight=feature_weight,
        ),
    )
    return finish(report)
