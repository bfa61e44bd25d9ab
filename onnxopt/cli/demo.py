"""``onnxopt demo``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import PATH, finish, json_option, progress, target, target_options

__all__ = ["command"]


@click.command("demo")
@click.option("-o", "--output", type=PATH, metavar="OUT", help="Keep the INT8 model here.")
@target_options
@json_option
def command(output: Path | None, **shared: object) -> int:
    """Quantizes, compares and measures a small digit classifier that comes with the package."""
    from onnxopt.commands.demo import demo

    return finish(demo(output, target=target(shared), progress=progress()))
