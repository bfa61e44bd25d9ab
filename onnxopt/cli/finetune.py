"""``onnxopt finetune M.onnx --data D -o OUT``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.options import (
    PATH,
    data_options,
    finish,
    json_option,
    output_options,
    progress,
    source,
    target,
    target_options,
)
from onnxopt.cli.training import recipe, training_options
from onnxopt.errors import UsageError

__all__ = ["command"]


@click.command("finetune")
@click.argument("model", type=PATH)
@output_options
@training_options
@data_options
@target_options
@json_option
def command(
    model: Path,
    output: Path | None,
    metric: str | None,
    output_name: str | None,
    eval_data: str | None,
    time_limit: float | None,
    tensorboard: Path | None,
    keep_failing: bool,
    dry_run: bool,
    **shared: Any,
) -> int:
    """Trains the weights of MODEL on labelled data; exit 1 when that made it no better on samples held back."""
    from onnxopt.commands.distill import finetune

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt finetune", fix="add -o OUT")
    report = finetune(
        model,
        output,
        source(shared),
        recipe=recipe(shared),
        eval_data=eval_data,
        metric=metric,
        output_name=output_name,
        target=target(shared),
        time_limit=time_limit,
        tensorboard=tensorboard,
        keep_failing=keep_failing,
        dry_run=dry_run,
        progress=progress(),
    )
    return finish(report)
