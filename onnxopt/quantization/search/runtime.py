"""Runtime settings that make a candidate faster: fusions of ONNX Runtime that cost more than they save on this model.

The kernels that a model runs tell which fusions were applied; each that is known to lose on some models is left out
once, the result judged like any candidate. Example: SkipLayerNormalization takes 3.0 ms on MiniLM, where Add and
LayerNormalization take 0.5 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from onnxopt.core.io import save_scratch
from onnxopt.evaluate.compare import Scorer
from onnxopt.measurement.profile import Profile, profile
from onnxopt.passes.base import Context
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.portability.deployment import Deployment
from onnxopt.quantization.search.budget import Budget
from onnxopt.quantization.search.candidates import Candidate, judge
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds
from onnxopt.run.settings import PRECISE, SessionSettings
from onnxopt.run.target import provider

__all__ = ["better_settings", "exact_sums"]

OPTIMIZERS: Mapping[str, str] = MappingProxyType(
    {
        "SkipLayerNormalization": "SkipLayerNormFusion",
        "SkipSimplifiedLayerNormalization": "SkipLayerNormFusion",
        "EmbedLayerNormalization": "EmbedLayerNormFusion",
        "ReorderInput": "NchwcTransformer",
        "ReorderOutput": "NchwcTransformer",
    }
)
"""Executed operator -> the optimizer of ONNX Runtime that makes it."""
LEAST_SHARE = 0.05
"""A kernel that takes less of the time has nothing to give."""


def better_settings(
    found: Candidate,
    reference: Path,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    max_drop: float,
    ctx: Context,
    place: Deployment,
    budget: Budget,
) -> list[Candidate]:
    """``found`` without each optimizer whose kernels take part of its time, judged and measured."""
    if found.model is None:
        return []
    seen = profile(found.path, feeds, ctx.target, progress=ctx.progress)
    tried: list[Candidate] = []
    for name in _suspects(seen):
        if budget.spent() is not None:
            break
        already = found.settings.disabled_optimizers
        short = provider(ctx.target.provider).short
        settings = replace(found.settings, provider=short, disabled_optimizers=(*already, name))
        path = ctx.workdir / f"{found.name}, {settings}.onnx"
        save_scratch(found.model, path)
        twin = replace(found, name=f"{found.name}, {settings}", path=path, settings=settings)
        tried.append(judge(twin, reference, scorer, feeds, max_drop, ctx, place, budget))
    return tried


def exact_sums(
    candidates: Sequence[Candidate],
    reference: Path,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    max_drop: float,
    ctx: Context,
    place: Deployment,
    budget: Budget,
) -> list[Candidate]:
    """The largest form that was repaired for CPUs without VNNI, as it was before, with a setting that makes sums exact.

    Here that is measured against the repaired form; elsewhere it is slower by an unknown factor, and tried only where
    nothing else is accurate.
    """
    forms = [c for c in candidates if c.repaired is not None and c.repaired.is_changed and c.base is not None]
    useful = place.is_here or not any(c.outcome == "undecided" for c in candidates)
    if not place.saturates or not forms or not useful or budget.spent() is not None:
        return []
    form = max(forms, key=lambda c: c.changes)
    if form.base is None or not isinstance(form.item, StaticQuantize | DynamicQuantize):
        return []
    item = replace(form.item, narrow=(), unsigned=())
    result = item.run(form.base.clone(), ctx)
    name = f"{form.name}, exact sums"
    save_scratch(result.model, path := ctx.workdir / f"{name}.onnx")
    settings = SessionSettings(provider(ctx.target.provider).short, session_config={PRECISE: "1"})
    made = replace(form, name=name, item=item, model=result.model, path=path, changes=result.changes)
    twin = replace(made, notes=result.notes, settings=settings, repaired=None, comparison=None, latency=None)
    return [judge(twin, reference, scorer, feeds, max_drop, ctx, place, budget)]


def _suspects(seen: Profile) -> tuple[str, ...]:
    share: dict[str, float] = {}
    for time in seen.times:
        name = OPTIMIZERS.get(time.op)
        if name is not None:
            share[name] = share.get(name, 0.0) + time.time_ms / (seen.total_ms or 1.0)
    return tuple(name for name, part in sorted(share.items(), key=lambda item: -item[1]) if part > LEAST_SHARE)
