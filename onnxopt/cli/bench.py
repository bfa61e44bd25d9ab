"""``onnxopt bench M.onnx [N.onnx ...]``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import (
    PATH,
    POSITIVE,
    data_options,
    finish,
    inconclusive_option,
    json_option,
    listed,
    progress,
    source,
)

__all__ = ["command"]

NAMES = listed(click.STRING.convert)
COUNTS = listed(click.IntRange(min=1).convert)


@click.command("bench")
@click.argument("models", type=PATH, nargs=-1, required=True)
@click.option(
    "--members",
    multiple=True,
    type=PATH,
    metavar="A.onnx",
    help="Once for each member of an ensemble: all in separate sessions are the first row.",
)
@click.option("--profile", is_flag=True, help="Where the time goes: by kernel, by node, by region against the first.")
@data_options
@click.option(
    "--providers",
    "--provider",
    default="cpu",
    callback=NAMES,
    metavar="A,...",
    show_default=True,
    help="Execution providers.",
)
@click.option("--batch", "batches", callback=COUNTS, metavar="N,...", help="Samples of a call; default: as the data.")
@click.option("--threads", callback=COUNTS, metavar="N,...", help="Default: the cores allowed here.")
@click.option("--allow-fallback", is_flag=True, help="Accept nodes that run on another provider.")
@click.option("--rate", type=POSITIVE, metavar="Q", help="Queries a second that arrive at random (Server).")
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=1, metavar="N", help="Queries at the same time (Offline)."
)
@click.option("--seconds", type=POSITIVE, metavar="S", help="At most S of timed runs in each process; default: 3.")
@click.option("--runs", type=click.IntRange(min=1), metavar="N", help="Timed runs that are enough; default: 662.")
@click.option("--report", "output", type=PATH, metavar="FILE", help="Write the JSON report there, as a baseline.")
@inconclusive_option
@json_option
def command(
    models: tuple[Path, ...],
    members: tuple[Path, ...],
    providers: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    allow_fallback: bool,
    rate: float | None,
    concurrency: int,
    seconds: float | None,
    runs: int | None,
    output: Path | None,
    profile: bool,
    inconclusive: str | None,
    **shared: object,
) -> int:
    """Latency of MODELS for all PROVIDERS x BATCH x THREADS, measured in fresh processes.

    Every model after the first is compared with the first, interleaved. What cannot be measured is reported (exit
    code 3), and the rest is measured.
    """
    from onnxopt.commands.bench import bench
    from onnxopt.commands.common import check_output
    from onnxopt.core.atomic import write_atomic
    from onnxopt.measurement.job import Load
    from onnxopt.measurement.measure import MEASURED_RUNS, MEASURED_SECONDS
    from onnxopt.run.target import Target

    data = source(shared)
    if output is not None:
        for model in (*models, *members):
            check_output(output, model, data.path, data.preprocess, option="--report")
    report = bench(
        models,
        data,
        members=members,
        target=Target(allow_fallback=allow_fallback),
        providers=providers,
        batches=batches,
        threads=threads,
        load=Load(concurrency, rate),
        seconds=seconds or MEASURED_SECONDS,
        runs=runs or MEASURED_RUNS,
        with_profile=profile,
        progress=progress(),
    )
    if output is not None:
        write_atomic(output, report.to_json().encode(), option="--report")
    return finish(report, inconclusive=inconclusive)
