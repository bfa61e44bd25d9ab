"""``onnxopt quantize M.onnx -o OUT [--data D]``."""

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

MODES = ("auto", "static", "dynamic", "weights", "float16", "bfloat16")
ALGORITHMS = ("auto", "rtn", "hqq", "gptq")
BLOCK_SIZES = ("16", "32", "64", "128", "256")
CALIBRATORS = ("auto", "minmax", "ema", "percentile", "percentile-99.9", "entropy", "mse")


@click.command("quantize")
@click.argument("model", type=PATH)
@output_options
@click.option("--mode", type=click.Choice(MODES), default="auto", show_default=True)
@click.option("--calibrator", type=click.Choice(CALIBRATORS), default="auto", show_default=True)
@click.option(
    "--algorithm", type=click.Choice(ALGORITHMS), default="auto", help="--mode weights: how weights are rounded."
)
@click.option("--bits", type=click.Choice(["4", "8"]), help="--mode weights: of a weight; default: 4, then 8.")
@click.option("--block-size", type=click.Choice(BLOCK_SIZES), help="--mode weights: weights that share a scale.")
@click.option("--rounding", type=click.Choice(["nearest", "adaround"]), default="nearest", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that calibrate.")
@click.option("--ray", metavar="ADDRESS", help="Calibrate on this Ray cluster; local: one on this machine.")
@click.option("--eval-data", metavar="PATH", help="Judge on these; default: a held-back part of --data.")
@click.option("--max-drop", type=MAX_DROP, default=0.01, show_default=True, metavar="X")
@click.option("--max-evals", type=click.IntRange(min=1), default=40, show_default=True, help="Evaluations to spend.")
@click.option("--time-limit", type=POSITIVE, metavar="SECONDS", help="Try nothing further after this.")
@click.option("--recover", type=click.Choice(["distill"]), help="Train forms over the budget to answer as MODEL does.")
@click.option("--requantize", is_flag=True, help="Quantize what is left in float of a model quantized in part.")
@click.option(
    "--target",
    "place",
    default="host",
    show_default=True,
    metavar="NAME",
    help="Where the file is to run: host, vnni, avx2, arm, cuda, tensorrt, openvino.",
)
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
    algorithm: str,
    bits: str | None,
    block_size: str | None,
    rounding: Any,
    workers: int,
    requantize: bool,
    recover: Any,
    ray: str | None,
    eval_data: str | None,
    max_drop: float,
    max_evals: int,
    time_limit: float | None,
    place: str,
    exclude: tuple[str, ...],
    metric: str | None,
    output_name: str | None,
    keep_failing: bool,
    inconclusive: str | None,
    **shared: object,
) -> int:
    """INT8 form of MODEL: the fastest within the accuracy budget, or exit 1 when none beats the model itself.

    --mode weights stores weights in 4 or 8 bits, for size: what is smaller, not slower and within the budget passes.
    """
    from onnxopt.commands.quantize import quantize

    if output is None:
        raise UsageError("-o OUT is needed", where="onnxopt quantize", fix="onnxopt quantize M.onnx -o OUT --data D")
    report = quantize(
        model,
        output,
        source(shared),
        mode=mode,
        calibrator=calibrator,
        algorithm=algorithm,
        bits=None if bits is None else int(bits),
        block_size=None if block_size is None else int(block_size),
        rounding=rounding,
        workers=workers,
        requantize=requantize,
        recover=recover,
        ray=ray,
        eval_data=eval_data,
        max_drop=max_drop,
        max_evals=max_evals,
        time_limit=time_limit,
        exclude=exclude,
        metric=metric,
        output_name=output_name,
        target=target(shared),
        place=place,
        keep_failing=keep_failing,
        accept_inconclusive=inconclusive == "pass",
        progress=progress(),
    )
    return finish(report, inconclusive=inconclusive)
