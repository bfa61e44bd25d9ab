"""``merge``: several models as one checked file, judged against the best of them, timed against separate sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from onnxopt.commands.common import Source, check_output, first_feeds, workspace
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.merge_data import open_shared
from onnxopt.commands.merge_fuse import check_fuse, with_fusion
from onnxopt.commands.merge_options import read_output_names
from onnxopt.commands.merge_report import merge_report
from onnxopt.commands.merge_serial import merge_serial
from onnxopt.commands.provenance import stamp
from onnxopt.core.atomic import check_writable
from onnxopt.core.io import load, save
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.report import JSON, Note, Report
from onnxopt.data.dataset import Dataset
from onnxopt.errors import InputError, ModelError
from onnxopt.evaluate.metrics import choose_metric
from onnxopt.measurement.paired import compare_latency
from onnxopt.merging.adapt import Adapter
from onnxopt.merging.align import Alignment, InputMap, align_inputs, check_outputs
from onnxopt.merging.calls import Calls, run_members
from onnxopt.merging.ensemble import Ensemble, Fuse, cascade, combine
from onnxopt.merging.fit import setting_of
from onnxopt.merging.member import Member, prepare, titles
from onnxopt.merging.opsets import same_opsets
from onnxopt.merging.separate import separate_files
from onnxopt.merging.soup_ensemble import cook
from onnxopt.merging.strategies import Average, Cascade, Serial, Soup, Stack, Strategy, Weighted
from onnxopt.run.session import open_session
from onnxopt.run.settings import settings_path
from onnxopt.run.target import Target

__all__ = ["mean_file", "merge", "open_members"]

FEW = 8
VARIED = 64
"""Samples that are at hand where the time depends on the values."""


def merge(
    models: Sequence[Path | str],
    output: Path | None = None,
    source: Source | None = None,
    *,
    strategy: Strategy | None = None,
    eval_data: str | None = None,
    metric: str | None = None,
    output_names: Sequence[str] = (),
    input_map: InputMap | None = None,
    adapters: Mapping[int, Adapter] | None = None,
    target: Target | None = None,
    fuse: Fuse = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Combines models into one, verifies it against separate sessions, judges it and measures it.

    Args:
        models: Model files, two at least; they are not changed.
        output: Where the result goes; ``None``: nowhere, for the report alone.
        source: Data; with labels they fit weights and say whether the ensemble beats its best member.
        strategy: How the outputs become one; default: ``Weighted()`` with labels, ``Average()`` without.
        eval_data: Data to judge by; default: cross-fitting on ``source``.
        metric: Name of the metric; default: the one that fits outputs and labels.
        output_names: ``MEMBER:NAME``, or ``NAME`` for all: the outputs that take part.
        input_map: Member (from 0) -> its input -> the shared input that feeds it.
        adapters: Member (from 0) -> what is done to its input first.
        target: Where the model is to run.
        fuse: Whether members of one architecture are computed side by side: ``"auto"`` where measured faster.
        force: Write the ensemble even when it is not better than its best member.
        progress: Told of each step.

    Raises:
        UsageError: An option does not fit these models, or the output is an input.
        ModelError: A model cannot be used, or does not fit the others.
        DataError: The data or the labels do not fit.
        VerificationError: The file would not be the ensemble of its members.
    """
    source, target, progress = source or Source(), target or Target(), progress or SilentProgress()
    paths = [Path(path) for path in models]
    check_fuse(fuse, strategy)
    final = _final(paths, output, source, eval_data)
    with workspace() as folder:
        if isinstance(strategy, Serial):
            return merge_serial(
                paths,
                final,
                source,
                folder,
                input_map=input_map or {},
                adapters=adapters or {},
                target=target,
                force=force,
                progress=progress,
            )
        members, notes = open_members(paths, output_names, target)
        alignment = align_inputs(members, input_map, adapters)
        data = open_shared(source, alignment, folder, target)
        calls = run_members(alignment.members, data, target, folder, progress)
        check_outputs(alignment.members, [array.shape for array in calls.outputs[0]])
        held_back = _held_back(eval_data, source, alignment, folder, target, progress)
        chosen = strategy or (Weighted() if calls.labels is not None else Average())
        picked = None
        if calls.labels is not None:
            picked = choose_metric(metric, calls.outputs[0][0], has_labels=True, labels=calls.labels[0])
        setting = setting_of(alignment.members, calls, chosen, seed=source.seed, metric=picked)
        if isinstance(chosen, Cascade):
            ensemble = cascade(chosen, setting, alignment, calls, held_back, data=data, target=target, folder=folder)
        elif isinstance(chosen, Soup):
            judged_on = None
            if eval_data is not None:
                judged_on = open_shared(replace(source, path=eval_data, samples=None), alignment, folder, target)
            ensemble = cook(
                chosen, setting, alignment, judged_on, data=data, target=target, folder=folder, progress=progress
            )
        else:
            ensemble = combine(
                chosen, setting, alignment, calls, held_back, data=data, target=target, folder=folder, progress=progress
            )
        feeds = [s.feeds for s in islice(data, VARIED)] if ensemble.is_conditional else first_feeds(data)
        ensemble = with_fusion(
            ensemble,
            fuse,
            alignment,
            calls,
            data=data,
            feeds=feeds,
            target=target,
            folder=folder,
            seed=source.seed,
            progress=progress,
        )
        latency = compare_latency(
            separate_files(alignment, folder),
            ensemble.path,
            feeds,
            target,
            by_sample=ensemble.is_conditional,
            seed=source.seed,
            progress=progress,
        )
        report = merge_report(alignment, ensemble, latency, data, calls, notes, force=force, is_file=final is not None)
        if report.data["written"] is True and final is not None:
            _write(ensemble, alignment, data, final)
        return with_fallback(report, {"output": ensemble.path}, feeds, target)


def open_members(
    paths: Sequence[Path], output_names: Sequence[str], target: Target
) -> tuple[tuple[Member, ...], tuple[Note, ...]]:
    """The models, each known to load, with their outputs chosen and their operator sets alike.

    Raises:
        UsageError: An output name is unknown.
        ModelError: A model cannot be used.
    """
    names = titles(paths)
    chosen = read_output_names(output_names, names)
    members: list[Member] = []
    for title, path, name in zip(names, paths, chosen, strict=True):
        model = load(path)
        try:
            open_session(path, target)
        except InputError as error:
            raise type(error)(f"a member cannot be used: {error.what}", where=error.where, fix=error.fix) from error
        members.append(prepare(title, path, model, name))
    return same_opsets(members)


def mean_file(paths: Sequence[Path], source: Source, folder: Path, target: Target) -> Path:
    """A file in ``folder`` that gives the mean of the members, equal to that of their separate sessions.

    Raises:
        OnnxoptError: A member or the data cannot be used.
    """
    if len(paths) < 2:
        raise ModelError("one member is no ensemble", where=str(paths[0]), fix="give --members once for each member")
    members, _ = open_members(paths, (), target)
    alignment = align_inputs(members)
    data = open_shared(source, alignment, folder, target)
    calls = run_members(alignment.members, data.take(range(min(len(data), FEW))), target, folder)
    setting = setting_of(alignment.members, calls, Average(), seed=source.seed)
    quiet = SilentProgress()
    found = combine(Average(), setting, alignment, calls, None, data=data, target=target, folder=folder, progress=quiet)
    return found.path


def _final(paths: Sequence[Path], output: Path | None, source: Source, eval_data: str | None) -> Path | None:
    """Where the result goes.

    Raises:
        ModelError: There is one model only.
        UsageError: The output is an input.
    """
    if len(paths) < 2:
        raise ModelError(
            f"an ensemble takes two models or more, and {'one was' if paths else 'none was'} given",
            where=", ".join(str(p) for p in paths) or "merge",
            fix="onnxopt merge A.onnx B.onnx -o OUT",
        )
    if output is None:
        return None
    finals = [check_output(output, path, source.path, eval_data, source.preprocess) for path in paths]
    check_writable(settings_path(finals[0]))
    return finals[0]


def _held_back(
    eval_data: str | None, source: Source, alignment: Alignment, folder: Path, target: Target, progress: Progress
) -> Calls | None:
    if eval_data is None:
        return None
    data = open_shared(replace(source, path=eval_data, samples=None), alignment, folder, target)
    return run_members(alignment.members, data, target, folder, progress)


def _write(ensemble: Ensemble, alignment: Alignment, data: Dataset, final: Path) -> None:
    judged, difference = ensemble.judgement, ensemble.difference
    facts: dict[str, JSON] = {
        "verified_samples": difference.samples,
        "equal_to_separate_sessions": True,
        "members": len(alignment.members),
        "kept": [k + 1 for k in ensemble.keep],
    }
    if judged is not None:
        facts |= {"metric": judged.metric, "score": judged.ensemble, "best_member": judged.best, "items": judged.items}
    strategy = replace(ensemble.strategy, meta="given") if isinstance(ensemble.strategy, Stack) else ensemble.strategy
    first, *further = (member.path for member in alignment.members)
    changes = {"shared_nodes": ensemble.shared.nodes, "shared_weights": ensemble.shared.weights}
    if ensemble.fusion is not None and ensemble.fusion.is_kept:
        changes["fused_operators"] = ensemble.fusion.operators
    stamp(ensemble.model, first, [strategy], changes=changes, verdict=facts, data=data, further=further)
    save(ensemble.model, final)
