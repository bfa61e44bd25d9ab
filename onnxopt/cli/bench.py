"""``onnxopt bench M.onnx [N.onnx ...]``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import (
    PATH,
    data_options,
    finish,
    inconclusive_option,
    json_option,
    progress,
    source,
    target,
    target_options,
)

__all__ = ["command"]


@click.command("bench")
@click.argument("models", type=PATH, nargs=-1, required=True)
@click.option("--profile", is_flag=True, help="Where the time goes: by kernel, by node, by region against the first.")
@data_options
@target_options
@inconclusive_option
@json_option
def command(models: tuple[Path, ...], inconclusive: str | None, profile: bool, **shared: object) -> int:
    """Latency of MODELS; every one after the first is compared with the first, interleaved, in fresh processes."""
    from onnxopt.commands.bench import bench

    report = bench(models, source(shared), target=target(shared), with_profile=profile, progress=progress())
    return finish(report, inconclusive=inconclusive)
