"""``compare``: is the candidate still right, on the user's data?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.commands.common import (
    Source,
    accuracy_table,
    as_json,
    data_notes,
    drift_table,
    first_feeds,
    open_data,
    open_model,
    workspace,
)
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.merge import mean_file
from onnxopt.commands.saturation import accuracies, audit_data, audit_notes, audit_table, check_isa
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.report import Note, Report, Status, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.errors import UsageError
from onnxopt.evaluate.compare import Comparison, Scorer, compare_models
from onnxopt.evaluate.drift import collapsed
from onnxopt.frameworks.base import Request
from onnxopt.frameworks.opening import is_original
from onnxopt.frameworks.reference import open_reference
from onnxopt.passes.base import Context
from onnxopt.quantization.portability.audit import audit
from onnxopt.run.settings import PRECISE, read_settings
from onnxopt.run.target import Target

__all__ = ["compare"]

PRECISELY = Note("avx2", "exact", f"the settings beside the model ask for {PRECISE}=1: no sum saturates")


def compare(
    reference: Path | Sequence[Path],
    candidate: Path,
    source: Source | None = None,
    *,
    metric: str | None = None,
    output: str | None = None,
    max_drop: float | None = None,
    target: Target | None = None,
    isa: str | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Metric of both models, the drop with its one-sided 95 % bound, and the drift of each output.

    Args:
        reference: The model to compare with, an ONNX file or a source that ``export`` takes; several: the mean of
            their separate sessions.
        candidate: The model in question.
        source: The data; without, inputs are made up and only drift and agreement on them are known.
        metric: Name of the metric; default: the one that fits outputs and labels.
        output: Name of the output that the metric judges.
        max_drop: Budget; ``None`` only reports.
        target: Where both run.
        trust: Files of a framework may be read that can run any code (pickles).
        isa: ``"avx2"`` judges the candidate as an x86 CPU without VNNI runs it.
        progress: Told of each sample.

    Raises:
        OnnxoptError: A model or the data cannot be used.
    """
    source, target = source or Source(), target or Target()
    if not isinstance(reference, Path):
        with workspace() as folder:
            mean = mean_file(reference, source, folder, target)
            return compare(
                mean,
                candidate,
                source,
                metric=metric,
                output=output,
                max_drop=max_drop,
                target=target,
                isa=isa,
                trust=trust,
                progress=progress,
            )
    if isa is not None:
        check_isa(isa, target)
    if is_original(str(reference)):
        if isa is not None:
            raise UsageError("--isa compares two ONNX files", where=f"--isa with {reference}", fix="leave --isa out")
        return _with_framework(str(reference), candidate, source, metric, output, max_drop, target, trust, progress)
    model = open_model(reference, target)
    open_model(candidate, target)
    data = open_data(source, reference, model, target)
    if isa is not None:
        scorer = Scorer(reference, data, target, metric=metric, output=output, seed=source.seed, progress=progress)
        return _on_avx2(scorer, candidate, data, max_drop, target, progress)
    found = compare_models(
        reference, candidate, data, target, metric=metric, output=output, seed=source.seed, progress=progress
    )
    report = _report(found, data, max_drop, is_chosen=output is not None)
    models = {"reference": reference, "candidate": candidate}
    return with_fallback(report, models, first_feeds(data), target)


def _with_framework(
    origin: str,
    candidate: Path,
    source: Source,
    metric: str | None,
    output: str | None,
    max_drop: float | None,
    target: Target,
    trust: bool,
    progress: Progress | None,
) -> Report:
    """The report on an ONNX file against the model of a framework that it came from."""
    model = open_model(candidate, target)
    reference = open_reference(origin, model, Request(trust=trust, seed=source.seed))
    data = open_data(source, candidate, model, target)
    found = compare_models(
        reference, candidate, data, target, metric=metric, output=output, seed=source.seed, progress=progress
    )
    report = _report(found, data, max_drop, is_chosen=output is not None)
    original = reference.original
    facts = {"framework": original.framework, "versions": dict(original.versions)}
    report = replace(report, data={**report.data, **facts}, notes=(*original.notes, *report.notes))
    return with_fallback(report, {"candidate": candidate}, first_feeds(data), target)


def _report(found: Comparison, data: Dataset, max_drop: float | None, *, is_chosen: bool) -> Report:
    return Report(
        command="compare",
        verdict=_judge(found, max_drop, is_chosen=is_chosen),
        data={"comparison": as_json(found), "samples": len(data), "synthetic": data.synthetic, "max_drop": max_drop},
        tables=(accuracy_table(found), drift_table(found)),
        notes=data_notes(data),
    )


def _on_avx2(
    scorer: Scorer, candidate: Path, data: Dataset, max_drop: float | None, target: Target, progress: Progress | None
) -> Report:
    """The report on the candidate as a CPU without VNNI runs it."""
    with workspace() as folder:
        ctx = Context(folder, None, target, progress=progress or SilentProgress())
        risks = audit(candidate, (sample.feeds for sample in data), ctx)
        exact = scorer.compare(candidate)
        is_precise = read_settings(candidate).session_config.get(PRECISE) == "1"
        simulated = scorer.compare(risks.path) if risks.risks and not is_precise else exact
    judged = {"without VNNI": simulated, "on this machine": exact}
    return Report(
        command="compare",
        verdict=_judge(simulated, max_drop, is_chosen=scorer.is_chosen),
        data={
            "comparison": as_json(simulated),
            "on_this_machine": as_json(exact),
            "saturation": audit_data(risks),
            "samples": len(data),
            "synthetic": data.synthetic,
            "max_drop": max_drop,
        },
        tables=(
            accuracy_table(simulated, "Accuracy, simulated on AVX2"),
            drift_table(simulated),
            accuracies(judged, "With and without VNNI"),
            *([audit_table(risks)] if risks.risks and not is_precise else []),
        ),
        notes=(*([PRECISELY] if is_precise else audit_notes(risks)), *data_notes(data)),
    )


def _judge(found: Comparison, max_drop: float | None, *, is_chosen: bool) -> Verdict:
    """Whether the drop (its point estimate) is within the budget, and no other output is lost."""
    scores = f"{found.metric} {found.candidate_score:.4g} against {found.reference_score:.4g}"
    bound = "" if found.drop_bound is None else f", 95 % bound {found.drop_bound:.4g}"
    text = f"{scores}: {'relative growth' if found.relative else 'drop'} {found.drop:.4g}{bound}"
    if max_drop is None:
        return Verdict(Status.PASS, text)
    if not found.is_within(max_drop):
        return Verdict(Status.FAIL, f"{text}, above the budget of {max_drop:g}")
    lost = None if is_chosen else collapsed(found.drift, judged=found.output)
    if lost is not None:
        return Verdict(Status.FAIL, f"{text}, but output {lost.name!r} is lost ({lost.sqnr_db:.1f} dB)")
    return Verdict(Status.PASS, f"{text}, within the budget of {max_drop:g}")
