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
from onnxopt.errors import UsageError

__all__ = ["command"]


@click.command("compare")
@click.argument("reference", type=PATH)
@click.argument("candidate", type=PATH, required=False)
@click.option(
    "--members",
    multiple=True,
    type=PATH,
    metavar="A.onnx",
    help="Once for each member of an ensemble: the mean of their separate sessions is the reference.",
)
@data_options
@target_options
@click.option("--max-drop", type=MAX_DROP, metavar="X", help="Exit 1 when the metric drops by more.")
@click.option("--isa", metavar="NAME", help="avx2: judge CANDIDATE as an x86 CPU without VNNI runs it.")
@click.option("--trust", is_flag=True, help="Read files of a framework that can run any code (pickles, .pt2).")
@json_option
def command(
    reference: Path,
    candidate: Path | None,
    members: tuple[Path, ...],
    max_drop: float | None,
    isa: str | None,
    trust: bool,
    metric: str | None,
    output_name: str | None,
    **shared: object,
) -> int:
    """Accuracy of CANDIDATE against REFERENCE: task metric with bound, agreement, drift of each output.

    REFERENCE is an ONNX file, or a source that `onnxopt export` takes (package.module:function, .pt2, ...).
    With --members the one model that is named is the candidate.
    """
    from onnxopt.commands.compare import compare

    if (candidate is None) != bool(members):
        raise UsageError(
            "CANDIDATE and what to compare it with are needed",
            where="onnxopt compare",
            fix="onnxopt compare REF.onnx CAND.onnx, or onnxopt compare CAND.onnx --members A.onnx --members B.onnx",
        )
    return finish(
        compare(
            members or reference,
            candidate or reference,
            source(shared),
            metric=metric,
            output=output_name,
            max_drop=max_drop,
            target=target(shared),
            isa=isa,
            trust=trust,
            progress=progress(),
        )
    )
