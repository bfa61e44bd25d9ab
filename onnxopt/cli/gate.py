"""``onnxopt gate CAND.onnx --baseline REF.onnx|baseline.json``."""

from __future__ import annotations

from pathlib import Path

import click

from onnxopt.cli.options import (
    MAX_DROP,
    PATH,
    POSITIVE,
    data_options,
    exit_code,
    finish,
    inconclusive_option,
    json_option,
    progress,
    source,
    target,
    target_options,
)
from onnxopt.errors import OnnxoptError

__all__ = ["command"]


@click.command("gate")
@click.argument("candidate", type=PATH)
@click.option("--baseline", type=PATH, required=True, metavar="REF", help="The reference model, or a report of bench.")
@click.option("--max-latency-ratio", "latency_ratio", type=POSITIVE, metavar="X", help="Default without limits: 1.03.")
@click.option("--max-p50-ms", "p50_ms", type=POSITIVE, metavar="X", help="Median latency.")
@click.option("--max-p99-ms", "p99_ms", type=POSITIVE, metavar="X", help="99th percentile of the latency.")
@click.option("--max-drop", "drop", type=MAX_DROP, metavar="X", help="Upper 95 % bound of the drop of the metric.")
@click.option("--min-sqnr-db", "sqnr_db", type=MAX_DROP, metavar="X", help="Signal to noise at every output.")
@click.option("--max-size-mb", "size_mb", type=POSITIVE, metavar="X", help="Size on disk in 10^6 bytes.")
@click.option("--max-memory-ratio", "memory_ratio", type=POSITIVE, metavar="X", help="Peak memory of the process.")
@click.option("--max-cold-start-ms", "cold_start_ms", type=POSITIVE, metavar="X", help="Load and first run together.")
@click.option("--rebaseline", is_flag=True, help="Measure the model of a stored baseline again, and replace it.")
@click.option("--junit", "junit_path", type=PATH, metavar="FILE", help="Write JUnit XML there.")
@click.option(
    "--markdown", "markdown_path", type=PATH, metavar="FILE", help="Write a comment for a pull request there."
)
@click.option("--report", "report_path", type=PATH, metavar="FILE", help="Write the JSON report there.")
@data_options
@target_options
@inconclusive_option
@json_option
def command(
    candidate: Path,
    baseline: Path,
    latency_ratio: float | None,
    p50_ms: float | None,
    p99_ms: float | None,
    drop: float | None,
    sqnr_db: float | None,
    size_mb: float | None,
    memory_ratio: float | None,
    cold_start_ms: float | None,
    rebaseline: bool,
    junit_path: Path | None,
    markdown_path: Path | None,
    report_path: Path | None,
    metric: str | None,
    output_name: str | None,
    inconclusive: str | None,
    **shared: object,
) -> int:
    """Whether CANDIDATE keeps its limits against a baseline: exit 0 when it does, 1 when one is broken, 5 undecided."""
    from onnxopt.commands.gate import gate
    from onnxopt.commands.limits import Limits
    from onnxopt.report.outputs import check_outputs, write_error, write_outputs

    data = source(shared)
    check_outputs(
        junit_path=junit_path,
        markdown_path=markdown_path,
        report_path=report_path,
        models=(candidate, baseline),
        others=(data.path, data.preprocess),
    )
    try:
        limits = Limits(latency_ratio, p50_ms, p99_ms, drop, sqnr_db, size_mb, memory_ratio, cold_start_ms)
        report = gate(
            candidate,
            baseline,
            limits,
            data,
            metric=metric,
            output=output_name,
            rebaseline=rebaseline,
            target=target(shared),
            progress=progress(),
        )
    except OnnxoptError as error:
        write_error(error, junit_path=junit_path, markdown_path=markdown_path)
        raise
    write_outputs(
        report,
        junit_path=junit_path,
        markdown_path=markdown_path,
        report_path=report_path,
        exit_code=exit_code(report, inconclusive),
    )
    return finish(report, inconclusive=inconclusive)
