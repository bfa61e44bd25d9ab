"""``onnxopt export SOURCE -o M.onnx``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import (
    POSITIVE,
    finish,
    json_option,
    output_options,
    progress,
    source,
    source_options,
    target,
    target_options,
)
from onnxopt.errors import UsageError

__all__ = ["command"]


@click.command("export")
@click.argument("origin", metavar="SOURCE")
@output_options
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME:DTYPE[AXES]",
    help="Once for each input, as in x:float32[N,3,H=224,W=224]: letters are free axes.",
)
@click.option("--exporter", default="auto", show_default=True, metavar="NAME", help="Only this one.")
@click.option("--opset", type=click.IntRange(min=7), metavar="N", help="Default: what the exporter takes to be best.")
@click.option("--tolerance", type=POSITIVE, metavar="X", help="Largest difference, as a share of the largest value.")
@click.option("--trust", is_flag=True, help="Read files that can run any code (pickles, .pt2).")
@source_options
@target_options
@json_option
def command(
    origin: str,
    output: Path | None,
    inputs: tuple[str, ...],
    exporter: str,
    opset: int | None,
    tolerance: float | None,
    trust: bool,
    keep_failing: bool,
    **shared: object,
) -> int:
    """SOURCE as ONNX, written only when ONNX Runtime computes what the framework does.

    SOURCE is package.module:function that returns a PyTorch module, a .pt2 or TorchScript file, a Hugging Face
    folder, a scikit-learn estimator (.joblib, .skops), a Keras model (.keras, .h5) or a SavedModel folder.
    """
    from onnxopt.commands.export import export

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt export", fix="onnxopt export SOURCE -o M.onnx")
    report = export(
        origin,
        output,
        source(shared),
        inputs=inputs,
        exporter=exporter,
        opset_version=opset,
        tolerance=tolerance,
        trust=trust,
        target=target(shared),
        keep_failing=keep_failing,
        progress=progress(),
    )
    return finish(report)
