"""Where integers pay: the nodes that a quantized model spends more time on than the float one, from profiles of both.

Which kernels gain depends on the CPU, the shapes and the neighbours (a lone integer node pays for the conversions
around it), so it is measured, not listed. What to leave in float follows from a minimum cut (``borders``); what still
loses then goes back to float too, as long as that makes the whole faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model, label, nodes
from onnxopt.measurement.process import spread
from onnxopt.measurement.profile import Profile, profile
from onnxopt.measurement.regions import RegionTime, compare_profiles
from onnxopt.passes.base import Context
from onnxopt.quantization.forms import Quantizer, planned, with_float
from onnxopt.quantization.search.borders import Group, Layers, borders, in_float
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds
from onnxopt.run.tap import observed_shapes

__all__ = ["float_profile", "gains", "losing_nodes", "priced", "where_it_gains"]

ROUNDS = 3
PROFILED_SAMPLES = 8
"""Each is run once before it is profiled, which takes its time where a run is long."""
LOSES_BY = 1.05
"""A region loses when it takes this much longer than in float; less is noise of a profile."""
MOST_ELEMENT_MS = 5e-6
"""No conversion of an element takes longer: where hardly any is converted, the excess has other reasons."""
SMALLEST_SHARE = 0.001
"""Losses below this share of the whole run are not looked at."""


def float_profile(model: Model, feeds: Sequence[Feeds], ctx: Context) -> Profile:
    """The profile of the float model, which every comparison with it can share."""
    return _profiled(model, ctx.workdir / "gains-float.onnx", feeds, ctx)


def where_it_gains(
    model: Model, item: StaticQuantize, feeds: Sequence[Feeds], ctx: Context, plain: Profile | None = None
) -> StaticQuantize | None:
    """``item`` with the nodes kept float on which integers lose time; ``None``: there are none, or nothing is left.

    Args:
        model: The float model.
        item: How it is quantized.
        feeds: Inputs to run both on.
        ctx: Calibration data, target, folder.
        plain: Profile of ``model``, where it is known.
    """
    plain = plain or float_profile(model, feeds, ctx)
    saved = gains(model, item, feeds, ctx, plain)
    groups = tuple(Group((name,), 0.0, saved.get(name, 0.0)) for name in planned(item, model))
    layers = priced(groups, model, item, feeds, ctx, plain)
    current = in_float(item, layers.losing())
    known = {label(node) for node in nodes(model)}
    least_ms, found = math.inf, item
    for _ in range(ROUNDS):
        result = current.run(model.clone(), ctx)
        if not result.changes:
            break
        seen = _profiled(result.model, ctx.workdir / "gains-integer.onnx", feeds, ctx)
        if seen.total_ms >= least_ms:
            break
        least_ms, found = seen.total_ms, current
        lost = losing_nodes(compare_profiles(plain, seen, model, result.model), plain)
        current = with_float(current, [name for name in lost if name in known])
        if current == found:
            break
    return None if planned(found, model) == planned(item, model) else found


def priced(
    groups: tuple[Group, ...], model: Model, item: Quantizer, feeds: Sequence[Feeds], ctx: Context, plain: Profile
) -> Layers:
    """The groups of layers that ``item`` quantizes in ``model``, with what conversions between them take.

    That is measured: with every other group in float the model takes longer than the gains of the groups say.
    """
    between = borders(model, item, observed_shapes(model, feeds[0], ctx.target, ctx.workdir))
    layers, kept = Layers(groups, between), frozenset(groups[::2])
    elements = layers.crossing(kept)
    if not elements or len(kept) == len(groups):
        return layers
    expected = plain.total_ms - sum(g.gain_ms for g in groups if g not in kept)
    result = in_float(item, kept).run(model.clone(), ctx)
    seen = _profiled(result.model, ctx.workdir / "gains-half.onnx", feeds, ctx)
    return Layers(groups, between, min(max(seen.total_ms - expected, 0.0) / elements, MOST_ELEMENT_MS))


def gains(
    model: Model, item: Quantizer, feeds: Sequence[Feeds], ctx: Context, plain: Profile | None = None
) -> dict[str, float]:
    """Label of a node -> milliseconds that integers save there (negative: cost); those of a region share its gain."""
    quantized = item.run(model.clone(), ctx).model
    plain = plain or float_profile(model, feeds, ctx)
    found = _profiled(quantized, ctx.workdir / "gains-integer.onnx", feeds, ctx)
    regions = compare_profiles(plain, found, model, quantized)
    return {name: -region.loss_ms / len(region.nodes) for region in regions for name in region.nodes}


def losing_nodes(regions: Sequence[RegionTime], plain: Profile) -> list[str]:
    """Labels of the nodes in regions that take clearly longer on integers."""
    least = SMALLEST_SHARE * plain.total_ms
    lost = [r for r in regions if r.loss_ms > least and r.candidate_ms > LOSES_BY * r.reference_ms]
    return [name for region in lost for name in region.nodes]


def _profiled(model: Model, path: Path, feeds: Sequence[Feeds], ctx: Context) -> Profile:
    save_scratch(model, path)
    return profile(path, spread(feeds, PROFILED_SAMPLES), ctx.target, progress=ctx.progress)
