"""``onnxopt compare REF.onnx CAND.onnx --data D``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import (
    MAX_DROP,
    PATH,
    data_options,
    finish,
    json_option,
    progress,
    source,
    target,
    target_options,
)

__all__ = ["command"]


@click.command("compare")
@click.argument("reference", type=PATH)
@click.argument("candidate", type=PATH)
@data_options
@target_options
@click.option("--max-drop", type=MAX_DROP, metavar="X", help="Exit 1 when the metric drops by more.")
@click.option("--isa", metavar="NAME", help="avx2: judge CANDIDATE as an x86 CPU without VNNI runs it.")
@json_option
def command(
    reference: Path,
    candidate: Path,
    max_drop: float | None,
    isa: str | None,
    metric: str | None,
    output_name: str | None,
    **shared: object,
) -> int:
    """Accuracy of CANDIDATE against REFERENCE: task metric with bound, agreement, drift of each output."""
    from onnxopt.commands.compare import compare

    return finish(
        compare(
            reference,
            candidate,
            source(shared),
            metric=metric,
            output=output_name,
            max_drop=max_drop,
            target=target(shared),
            isa=isa,
            progress=progress(),
        )
    )
