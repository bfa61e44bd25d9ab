"""``onnxopt finetune M.onnx --data D -o OUT``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.options import PATH, data_options, finish, json_option, output_options, source, target_options
from onnxopt.cli.training import run_options, training_options
from onnxopt.errors import UsageError

__all__ = ["command"]


@click.command("finetune")
@click.argument("model", type=PATH)
@output_options
@training_options
@data_options
@target_options
@json_option
def command(model: Path, output: Path | None, **shared: Any) -> int:
    """Trains the weights of MODEL on labelled data; exit 1 when that made it no better on samples held back."""
    from onnxopt.commands.distill import finetune

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt finetune", fix="add -o OUT")
    return finish(finetune(model, output, source(shared), **run_options(shared)))
