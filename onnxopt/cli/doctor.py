"""``onnxopt doctor [M.onnx [--data D]]``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import PATH, finish, json_option, progress, source, source_options

__all__ = ["command"]


@click.command("doctor")
@click.argument("model", type=PATH, required=False)
@source_options
@click.option("--output-name", metavar="NAME", help="The output at which calibrators are judged; default: the first.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Default: the cores allowed here.")
@json_option
def command(model: Path | None, output_name: str | None, threads: int | None, **shared: object) -> int:
    """What ONNX Runtime can do on this machine and how well it can measure; with MODEL also where that runs.

    With --data instead: whether the data are fit to calibrate MODEL on (exit 1: they are not).
    """
    from onnxopt.commands.doctor import doctor

    report = doctor(model, source(shared), output_name=output_name, threads=threads, progress=progress())
    return finish(report)
