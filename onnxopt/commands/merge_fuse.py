"""``merge --fuse``: members of one architecture side by side, verified, and kept when measured faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.core.progress import Progress
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset
from onnxopt.errors import InputError, UsageError, VerificationError
from onnxopt.measurement.paired import compare_latency
from onnxopt.merging.align import Alignment
from onnxopt.merging.calls import Calls
from onnxopt.merging.ensemble import VERIFIED, Ensemble, Fuse, Fusion
from onnxopt.merging.strategies import Cascade, Serial, Soup, Strategy
from onnxopt.merging.written import build_fused, save_checked, verify_batch, verify_outputs
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["check_fuse", "with_fusion"]


def check_fuse(fuse: Fuse, strategy: Strategy | None) -> None:
    """Nothing, where members can be computed side by side at all.

    Raises:
        UsageError: It is asked for, and the members run one after another or are one.
    """
    if fuse == "on" and isinstance(strategy, Cascade | Serial | Soup):
        raise UsageError(
            "--fuse on has no effect here: it is for members that all run on the same input",
            where=f"--strategy {strategy.name}",
            fix="leave it out, or give --strategy average, weighted, vote or stack",
        )


def with_fusion(
    ensemble: Ensemble,
    fuse: Fuse,
    alignment: Alignment,
    calls: Calls,
    *,
    data: Dataset,
    feeds: Sequence[Feeds],
    target: Target,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Ensemble:
    """The ensemble with its members side by side: ``auto`` where that is measured faster, ``on`` where it is equal."""
    combination = ensemble.combination
    if fuse == "off" or combination is None:
        return ensemble
    found = build_fused(alignment, combination)
    if found is None:
        note = Note("horizontal fusion", "none", "no two members have the same architecture with weights of their own")
        return replace(ensemble, notes=(*ensemble.notes, note)) if fuse == "on" else ensemble
    model, fused = found
    path = folder / "fused.onnx"
    try:
        save_checked(model, path, target)
        expected = [combination.compute(call) for call in calls.outputs[:VERIFIED]]
        difference = verify_outputs(path, data, expected, target)
        verify_batch(path, ensemble.path, data, target)
    except (VerificationError, InputError) as error:
        note = Note("horizontal fusion", "left out", error.what)
        return replace(ensemble, notes=(*ensemble.notes, note))
    latency = compare_latency(ensemble.path, path, feeds, target, seed=seed, progress=progress)
    is_kept = fuse == "on" or latency.decision == "faster"
    fusion = Fusion(
        fused.operators, fused.members, is_whole=fused.stacked is not None, is_kept=is_kept, latency=latency
    )
    text = (
        f"{fused.operators} operators of each of {fused.members} members as one: {1 / latency.ratio:.2f}x as fast as "
        f"one after the other (ratio {latency.low:.3f} .. {latency.high:.3f}, {latency.decision})"
    )
    word = "left out" if not is_kept else "kept" if latency.decision == "faster" else "kept as asked for"
    notes = (*ensemble.notes, Note("horizontal fusion", word, text), *fused.notes)
    if not is_kept:
        return replace(ensemble, notes=notes, fusion=fusion)
    return replace(ensemble, model=model, path=path, difference=difference, notes=notes, fusion=fusion)
