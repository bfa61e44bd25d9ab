"""``onnxopt doctor [M.onnx]``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import PATH, finish, json_option, progress

__all__ = ["command"]


@click.command("doctor")
@click.argument("model", type=PATH, required=False)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: the cores allowed here.")
@json_option
def command(model: Path | None, threads: int | None) -> int:
    """What ONNX Runtime can do on this machine and how well it can measure; with MODEL also where that runs."""
    from onnxopt.commands.doctor import doctor

    return finish(doctor(model, threads=threads, progress=progress()))
