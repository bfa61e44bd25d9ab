"""``onnxopt inspect M.onnx``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import PATH, data_options, finish, json_option, source, target, target_options

__all__ = ["command"]


@click.command("inspect")
@click.argument("model", type=PATH)
@data_options
@target_options
@json_option
def command(model: Path, **shared: object) -> int:
    """Inputs, outputs, operators, parameters, MACs of MODEL, and which nodes would be quantized or why not."""
    from onnxopt.commands.inspect import inspect

    return finish(inspect(model, source(shared), target=target(shared)))
