"""``prune --quantize``: pruned, then quantized on the same data; judged and measured against the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxopt.commands.common import (
    Source,
    accuracy_table,
    as_json,
    check_output,
    first_feeds,
    latency_table,
    size_table,
    workspace,
)
from onnxopt.commands.prune import prune
from onnxopt.commands.quantize import quantize
from onnxopt.commands.quantize_data import fitted_to, split_data
from onnxopt.commands.recovery import Recovery
from onnxopt.core.io import load, save
from onnxopt.core.progress import Progress
from onnxopt.core.report import Note, Report, Status, Table, Verdict
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.measurement.paired import LatencyComparison, compare_latency
from onnxopt.run.settings import NO_SETTINGS, read_settings, write_settings
from onnxopt.run.target import Target

__all__ = ["prune_and_quantize"]

QUANTIZE_DROP = 0.01
"""What quantization may lose of the pruned model's score where no budget was given."""


def prune_and_quantize(
    path: Path,
    output: Path,
    source: Source,
    *,
    recover: Recovery | None = None,
    max_drop: float | None = None,
    eval_data: str | None = None,
    metric: str | None = None,
    output_name: str | None = None,
    target: Target | None = None,
    keep_failing: bool = False,
    accept_inconclusive: bool = False,
    progress: Progress | None = None,
    **goal: Any,
) -> Report:
    """Prunes, then quantizes what comes out; the pruned float model is written where integers do not pay or cost more.

    Args:
        path: The model; it is not changed.
        output: Where the result goes.
        source: Data to fit to and to calibrate on.
        recover: How both steps recover accuracy, as for each of them.
        max_drop: Largest drop of the metric against ``path``, of both steps together.
        eval_data: Data to judge by; default: a held-back part of ``source``.
        metric: Name of the metric.
        output_name: Name of the output that the metric judges.
        target: Where the model is to run.
        keep_failing: Write the pruned model even when it fails.
        accept_inconclusive: Write what was too noisy to decide.
        progress: Told of each step.
        **goal: The goal and the options of ``prune``.

    Raises:
        OnnxoptError: As ``prune`` and ``quantize``.
    """
    target = target or Target()
    final = check_output(output, path, source.path, eval_data, source.preprocess)
    shared: dict[str, Any] = {
        "eval_data": eval_data,
        "recover": recover,
        "metric": metric,
        "output_name": output_name,
        "target": target,
        "accept_inconclusive": accept_inconclusive,
        "progress": progress,
    }
    with workspace() as folder:
        slim, small = folder / "pruned.onnx", folder / "pruned-int8.onnx"
        first = prune(path, slim, source, max_drop=max_drop, keep_failing=keep_failing, **shared, **goal)
        if not slim.exists():
            return first
        allowed = QUANTIZE_DROP if max_drop is None else max_drop
        second = quantize(slim, small, source, max_drop=allowed, **shared)
        model = load(path)
        _, held_back = split_data(source, eval_data, path, model, target, fitted_to)
        scorer = Scorer(path, held_back, target, metric=metric, output=output_name, seed=source.seed, progress=progress)
        written, why = slim, "" if small.exists() else second.verdict.reason
        judged = scorer.compare(small) if small.exists() else None
        if judged is not None and max_drop is not None and not judged.is_within(max_drop):
            why = f"both steps together drop {judged.metric} by {judged.drop:.4g}, over the budget of {max_drop:g}"
        elif judged is not None:
            written = small
        comparison = judged if judged is not None and written == small else scorer.compare(slim)
        feeds = first_feeds(held_back)
        latency = compare_latency(path, written, feeds, target, seed=source.seed, progress=progress)
        write_settings(final, NO_SETTINGS)
        save(load(written), final)
        write_settings(final, read_settings(written))
        sizes = size_table({"input": path, "pruned": slim, "output": written})
        return _joined(first, second, comparison, latency, sizes, why)


def _joined(
    first: Report, second: Report, comparison: Comparison, latency: LatencyComparison, sizes: Table, why: str
) -> Report:
    """The report of both steps."""
    steps = "pruned" if why else "pruned and quantized"
    scores = f"{comparison.metric} {comparison.reference_score:.4g} -> {comparison.candidate_score:.4g}"
    text = f"{steps}: {1 / latency.ratio:.2f}x as fast (ratio {latency.low:.3f} .. {latency.high:.3f}), {scores}"
    status = first.verdict.status if latency.decision != "slower" else Status.FAIL
    notes = (Note("quantize", "declined", why),) if why else ()
    data: Mapping[str, Any] = {
        "prune": dict(first.data),
        "quantize": dict(second.data),
        "comparison": as_json(comparison),
        "latency": as_json(latency),
        "quantized": not why,
    }
    tables = (
        *(replace(t, title=f"Prune: {t.title}") for t in first.tables[:2]),
        *(replace(t, title=f"Quantize: {t.title}") for t in second.tables[:1]),
        accuracy_table(comparison),
        sizes,
        latency_table({steps: latency}, "Against the input, interleaved in fresh processes"),
    )
    return Report("prune", Verdict(status, text), data, tables, (*notes, *first.notes, *second.notes))
