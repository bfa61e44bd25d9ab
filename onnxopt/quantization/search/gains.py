"""Where integers pay: the nodes that a quantized model spends more time on than the float one, from profiles of both.

Which kernels gain depends on the CPU, the shapes and the neighbours (a lone integer node pays for the conversions
around it), so it is measured, not listed. What loses goes back to float, which moves the borders; hence a few rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model, label, nodes
from onnxopt.measurement.process import spread
from onnxopt.measurement.profile import Profile, profile
from onnxopt.measurement.regions import RegionTime, compare_profiles
from onnxopt.passes.base import Context
from onnxopt.quantization.forms import Quantizer
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds

__all__ = ["float_profile", "gains", "losing_nodes", "time_ms", "where_it_gains"]

ROUNDS = 3
PROFILED_SAMPLES = 8
"""Each is run once before it is profiled, which takes its time where a run is long."""
LOSES_BY = 1.05
"""A region loses when it takes this much longer than in float; less is noise of a profile."""
SMALLEST_SHARE = 0.001
"""Losses below this share of the whole run are not looked at."""


def float_profile(model: Model, feeds: Sequence[Feeds], ctx: Context) -> Profile:
    """The profile of the float model, which every comparison with it can share."""
    return _profiled(model, ctx.workdir / "gains-float.onnx", feeds, ctx)


def where_it_gains(
    model: Model,
    item: StaticQuantize,
    quantized: Model,
    feeds: Sequence[Feeds],
    ctx: Context,
    plain: Profile | None = None,
) -> StaticQuantize | None:
    """``item`` with the nodes kept float on which integers lose time; ``None``: there are none, or nothing is left.

    Args:
        model: The float model.
        item: How it is quantized.
        quantized: What came out.
        feeds: Inputs to run both on.
        ctx: Calibration data, target, folder.
        plain: Profile of ``model``, where it is known.
    """
    plain = plain or float_profile(model, feeds, ctx)
    kept, labels = dict.fromkeys(item.keep_float), {label(node) for node in nodes(model)}
    current = quantized
    for _ in range(ROUNDS):
        found = _profiled(current, ctx.workdir / "gains-integer.onnx", feeds, ctx)
        lost = [n for n in losing_nodes(compare_profiles(plain, found, model, current), plain) if n in labels]
        new = [name for name in lost if name not in kept]
        if not new:
            break
        kept |= dict.fromkeys(new)
        result = replace(item, keep_float=tuple(kept)).run(model.clone(), ctx)
        if not result.changes:
            return None
        current = result.model
    return replace(item, keep_float=tuple(kept)) if len(kept) > len(item.keep_float) else None


def gains(
    model: Model, item: Quantizer, feeds: Sequence[Feeds], ctx: Context, plain: Profile | None = None
) -> dict[str, float]:
    """Label of a node -> milliseconds that integers save there (negative: cost); those of a region share its gain."""
    quantized = item.run(model.clone(), ctx).model
    plain = plain or float_profile(model, feeds, ctx)
    found = _profiled(quantized, ctx.workdir / "gains-integer.onnx", feeds, ctx)
    regions = compare_profiles(plain, found, model, quantized)
    return {name: -region.loss_ms / len(region.nodes) for region in regions for name in region.nodes}


def time_ms(model: Model, item: Quantizer, feeds: Sequence[Feeds], ctx: Context) -> float:
    """The time of all kernels of what ``item`` makes of ``model``."""
    return _profiled(item.run(model.clone(), ctx).model, ctx.workdir / "gains-time.onnx", feeds, ctx).total_ms


def losing_nodes(regions: Sequence[RegionTime], plain: Profile) -> list[str]:
    """Labels of the nodes in regions that take clearly longer on integers."""
    least = SMALLEST_SHARE * plain.total_ms
    lost = [r for r in regions if r.loss_ms > least and r.candidate_ms > LOSES_BY * r.reference_ms]
    return [name for region in lost for name in region.nodes]


def _profiled(model: Model, path: Path, feeds: Sequence[Feeds], ctx: Context) -> Profile:
    save_scratch(model, path)
    return profile(path, spread(feeds, PROFILED_SAMPLES), ctx.target, progress=ctx.progress)
