"""``onnxopt inspect M.onnx``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import PATH, data_options, finish, json_option, progress, source, target, target_options

__all__ = ["command"]


@click.command("inspect")
@click.argument("model", type=PATH)
@click.option("--profile", is_flag=True, help="Time of each kernel and node on the target.")
@click.option("--quantize", is_flag=True, help="What quantization makes of each node; with --data: error and gain.")
@click.option("--prune", is_flag=True, help="What could be cut: groups of channels, what each holds, barriers.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="With --quantize: names or op types that stay float.")
@data_options
@target_options
@json_option
def command(model: Path, profile: bool, quantize: bool, prune: bool, exclude: tuple[str, ...], **shared: object) -> int:
    """Inputs, outputs, operators, parameters, MACs of MODEL, and which nodes would be quantized or why not."""
    from onnxopt.commands.inspect import inspect

    report = inspect(
        model,
        source(shared),
        target=target(shared),
        with_profile=profile,
        with_quantization=quantize,
        with_pruning=prune,
        exclude=exclude,
        progress=progress(),
    )
    return finish(report)
