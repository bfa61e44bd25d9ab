"""``onnxopt quantize M.onnx -o OUT [--data D]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxopt.cli.options import (
    MAX_DROP,
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

CALIBRATORS = ("auto", "minmax", "ema", "percentile", "percentile-99.9", "entropy", "mse")


@click.command("quantize")
@click.argument("model", type=PATH)
@output_options
@click.option("--mode", type=click.Choice(["auto", "static", "dynamic"]), default="auto", show_default=True)
@click.option("--calibrator", type=click.Choice(CALIBRATORS), default="auto", show_default=True)
@click.option("--rounding", type=click.Choice(["nearest", "adaround"]), default="nearest", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that calibrate.")
@click.option("--ray", metavar="ADDRESS", help="Calibrate on this Ray cluster; local: one on this machine.")
@click.option("--eval-data", metavar="PATH", help="Judge on these; default: a held-back part of --data.")
@click.option("--max-drop", type=MAX_DROP, default=0.01, show_default=True, metavar="X")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Node names or op types that stay float.")
@data_options
@target_options
@inconclusive_option
@json_option
def command(
    model: Path,
    output: Path | None,
    mode: Any,
    calibrator: Any,
    rounding: Any,
    workers: int,
    ray: str | None,
    eval_data: str | None,
    max_drop: float,
    exclude: tuple[str, ...],
    metric: str | None,
    output_name: str | None,
    keep_failing: bool,
    inconclusive: str | None,
    **shared: object,
) -> int:
    """INT8 form of MODEL: the fastest within the accuracy budget, or exit 1 when none beats the model itself."""
    from onnxopt.commands.quantize import quantize

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt quantize", fix="onnxopt quantize M.onnx -o OUT --data D")
    report = quantize(
        model,
        output,
        source(shared),
        mode=mode,
        calibrator=calibrator,
        rounding=rounding,
        workers=workers,
        ray=ray,
        eval_data=eval_data,
        max_drop=max_drop,
        exclude=exclude,
        metric=metric,
        output_name=output_name,
        target=target(shared),
        keep_failing=keep_failing,
        accept_inconclusive=inconclusive == "pass",
        progress=progress(),
    )
    return finish(report, inconclusive=inconclusive)
