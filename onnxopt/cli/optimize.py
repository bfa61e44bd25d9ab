"""``onnxopt optimize M.onnx -o OUT``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import (
    PATH,
    data_options,
    finish,
    inconclusive_option,
    json_option,
    output_options,
    progress,
    source,
    target,
    target_options,
)
from onnxopt.errors import UsageError

__all__ = ["command"]


@click.command("optimize")
@click.argument("model", type=PATH, required=False)
@output_options
@click.option("--passes", metavar="A,B", help="Only these, in this order.")
@click.option("--list", "listed", is_flag=True, help="Name the passes and what each does.")
@data_options
@target_options
@inconclusive_option
@json_option
def command(
    model: Path | None,
    output: Path | None,
    passes: str | None,
    listed: bool,
    keep_failing: bool,
    inconclusive: str | None,
    **shared: object,
) -> int:
    """Clean-ups and folds of MODEL that leave its outputs as they are, written only if not measured slower."""
    from onnxopt.commands.optimize import list_passes, optimize

    if listed:
        return finish(list_passes())
    if model is None or output is None:
        raise UsageError(
            "a model and -o OUT are needed", where="onnxopt optimize", fix="onnxopt optimize M.onnx -o OUT"
        )
    report = optimize(
        model,
        output,
        source(shared),
        passes=None if passes is None else [p.strip() for p in passes.split(",") if p.strip()],
        target=target(shared),
        keep_failing=keep_failing,
        accept_inconclusive=inconclusive == "pass",
        progress=progress(),
    )
    return finish(report, inconclusive=inconclusive)
