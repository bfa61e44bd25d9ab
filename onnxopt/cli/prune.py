"""``onnxopt prune M.onnx -o OUT --data D --latency 0.7``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.options import (
    MAX_DROP,
    PATH,
    POSITIVE,
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

IMPORTANCES = ("obs", "activation", "fisher", "l2", "l1")


@click.command("prune")
@click.argument("model", type=PATH)
@output_options
@click.option("--latency", type=float, metavar="R", help="Share of the latency that may stay, measured here.")
@click.option("--macs", type=float, metavar="R", help="Share of the multiply-accumulates that may stay.")
@click.option("--params", type=float, metavar="R", help="Share of the parameters that may stay.")
@click.option("--sparsity", type=float, metavar="S", help="Share of the weights that become zero; not faster on CPU.")
@click.option("--nm", metavar="N:M", help="At most N of M weights stay along the input channels, such as 2:4.")
@click.option("--drop-blocks", type=click.IntRange(min=1), metavar="N", help="Take out N residual branches.")
@click.option("--max-drop", type=MAX_DROP, metavar="X", help="Largest drop; alone: the fastest model within it.")
@click.option("--quantize", "then_quantize", is_flag=True, help="Quantize the pruned model on the same data.")
@click.option("--recover", type=click.Choice(["distill"]), help="Train what comes out to answer as MODEL does.")
@click.option("--importance", type=click.Choice(IMPORTANCES), help="Ranks channels; default: obs.")
@click.option("--keep", multiple=True, metavar="PATTERN", help="Node names or op types that stay as they are.")
@click.option("--factor/--no-factor", default=True, show_default=True, help="Let a Conv become kh x 1 and 1 x kw.")
@click.option("--eval-data", metavar="PATH", help="Judge on these; default: a held-back part of --data.")
@click.option(
    "--time-limit",
    type=POSITIVE,
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Try no further way to share the cut out after this.",
)
@data_options
@target_options
@inconclusive_option
@json_option
def command(
    model: Path,
    output: Path | None,
    importance: Any,
    recover: Any,
    then_quantize: bool,
    keep_failing: bool,
    inconclusive: str | None,
    metric: str | None,
    output_name: str | None,
    **shared: Any,
) -> int:
    """Structured pruning of MODEL with closed-form repair on unlabelled data; no training code is needed."""
    from onnxopt.commands.prune import prune
    from onnxopt.commands.prune_quantize import prune_and_quantize

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt prune", fix="onnxopt prune M.onnx -o OUT --data D ...")
    report = (prune_and_quantize if then_quantize else prune)(
        model,
        output,
        source(shared),
        latency=shared["latency"],
        macs=shared["macs"],
        params=shared["params"],
        sparsity=shared["sparsity"],
        nm=shared["nm"],
        drop_blocks=shared["drop_blocks"],
        max_drop=shared["max_drop"],
        importance=importance,
        recover=recover,
        keep=shared["keep"],
        factor=shared["factor"],
        eval_data=shared["eval_data"],
        metric=metric,
        output_name=output_name,
        target=target(shared),
        keep_failing=keep_failing,
        accept_inconclusive=inconclusive == "pass",
        time_limit=shared["time_limit"],
        progress=progress(),
    )
    return finish(report, inconclusive=inconclusive)
