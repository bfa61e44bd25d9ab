"""Puts the layers that cost the most accuracy back to float, until a quantized model is within its budget.

Rank groups of layers by the output error that each causes when it alone runs on integers; find the layers to keep in
float for each price of the error, conversions between floats and integers included (``borders``); bisect the price;
then try to quantize stretches of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.evaluate.compare import Comparison, Scorer
from onnxopt.evaluate.drift import collapsed
from onnxopt.evaluate.outputs import as_array, is_floating
from onnxopt.passes.base import Context
from onnxopt.quantization.forms import Quantizer, planned, with_float
from onnxopt.quantization.search.borders import Group, Layers, in_float
from onnxopt.quantization.search.budget import Budget
from onnxopt.quantization.search.gains import float_profile, gains, priced
from onnxopt.run.session import Feeds, Session, open_session

__all__ = ["RANKED_ON", "keep_within", "rank", "restore"]

MOST_GROUPS = 40
RANKED_ON = 16
PUT_BACKS = 8
STRICTER = (1.0, 0.7, 0.4, 0.0)
"""Shares of the budget that are tried one after the other."""


def keep_within(
    model: Model,
    item: Quantizer,
    scorer: Scorer,
    max_drop: float,
    feeds: Sequence[Feeds],
    ctx: Context,
    budget: Budget,
) -> Iterator[Quantizer]:
    """``item`` with the layers in float that it takes to be within the budget, then a part of it, then without a drop.

    The later ones are for who finds that the first is not within the budget on other samples. Layers are ranked once.

    Args:
        model: The float model.
        item: How it is quantized; not within the budget.
        scorer: Judges accuracy.
        max_drop: The budget.
        feeds: Samples that layers are ranked and profiled on.
        ctx: Calibration data, target, folder.
        budget: Counts the evaluations; what is left unjudged when it is spent counts as not within ``max_drop``.
    """
    plain = float_profile(model, feeds, ctx)
    groups = rank(model, item, feeds, gains(model, item, feeds, ctx, plain), ctx)
    layers = priced(groups, model, item, feeds, ctx, plain)
    path = ctx.workdir / "restore.onnx"
    seen: dict[tuple[str, ...], Comparison] = {}

    def judged(tried: Quantizer) -> Comparison | None:
        key = planned(tried, model)
        if key not in seen:
            if not key or budget.spent() is not None:
                return None
            budget.spend()
            save_scratch(tried.run(model.clone(), ctx).model, path)
            seen[key] = scorer.compare(path)
        return seen[key]

    def is_within(tried: Quantizer, limit: float) -> bool:
        found = judged(tried)
        if found is None:
            return False
        lost = None if scorer.is_chosen else collapsed(found.drift, judged=found.output)
        return found.promises(limit) and lost is None

    found: Quantizer | None = None
    for limit in dict.fromkeys(max_drop * share for share in STRICTER):
        stricter = restore(item, layers, partial(is_within, limit=limit))
        if stricter is None:
            return
        if stricter != found:
            yield stricter
        found = stricter


def rank(
    model: Model, item: Quantizer, feeds: Sequence[Feeds], gains_ms: Mapping[str, float], ctx: Context
) -> tuple[Group, ...]:
    """The groups of the layers that ``item`` quantizes, each with its error and gain, in graph order.

    Args:
        model: The float model.
        item: How it is quantized.
        feeds: Samples on which the error is measured.
        gains_ms: Label of a node -> time that integers save there.
        ctx: Calibration data, target, folder.
    """
    labels = planned(item, model)
    parts = [tuple(part) for part in np.array_split(np.array(labels, object), min(len(labels), MOST_GROUPS))]
    save_scratch(model, path := ctx.workdir / "rank-float.onnx")
    expected = _outputs(open_session(path, ctx.target), feeds)
    found: list[Group] = []
    with ctx.progress.task("ranking layers", len(parts)) as advance:
        for part in parts:
            others = tuple(name for name in labels if name not in part)
            alone = with_float(item, others).run(model.clone(), ctx)
            save_scratch(alone.model, path := ctx.workdir / "rank-one.onnx")
            error = _error(expected, _outputs(open_session(path, ctx.target), feeds))
            found.append(Group(part, error, sum(gains_ms.get(name, 0.0) for name in part)))
            advance(1)
    return tuple(found)


def restore(item: Quantizer, layers: Layers, is_within: Callable[[Quantizer], bool]) -> Quantizer | None:
    """``item`` with as little time as possible given up to be within the budget; ``None``: only float is.

    Args:
        item: How the model is quantized; not within the budget.
        layers: Its layers.
        is_within: Whether a model that is quantized so is within the budget; expensive.
    """
    choices = layers.choices()
    index = _first(choices, lambda kept: is_within(in_float(item, kept)))
    if index is None:
        return None
    kept = choices[index]
    runs, tried = layers.runs(kept), 0
    while runs and tried < PUT_BACKS:
        left = {run: layers.cost_ms(kept - run) for run in runs}
        run = min(runs, key=lambda r: left[r])
        runs.remove(run)
        if left[run] >= layers.cost_ms(kept):
            break
        if run != kept:
            tried += 1
            if is_within(in_float(item, kept - run)):
                kept -= run
                continue
        if len(run) > 1:
            runs += layers.halves(run)
    return in_float(item, kept)


def _first(choices: Sequence[frozenset[Group]], is_within: Callable[[frozenset[Group]], bool]) -> int | None:
    """The first choice that is within the budget, by bisection; ``None``: the last one is not."""
    low, high = -1, len(choices) - 1
    if high < 0 or not is_within(choices[high]):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if is_within(choices[middle]):
            high = middle
        else:
            low = middle
    return high


def _outputs(session: Session, feeds: Sequence[Feeds]) -> list[list[np.ndarray]]:
    return [[as_array(value, name) for name, value in session.run(sample).items()] for sample in feeds]


def _error(expected: Sequence[Sequence[np.ndarray]], found: Sequence[Sequence[np.ndarray]]) -> float:
    """The largest noise-to-signal ratio of an output; infinite where one is not finite."""
    signal, noise = np.zeros(len(expected[0])), np.zeros(len(expected[0]))
    for first, second in zip(expected, found, strict=True):
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            if is_floating(a) and a.shape == b.shape:
                exact = a.astype(np.float64)
                signal[i] += float(np.square(exact).sum())
                noise[i] += float(np.square(exact - b).sum())
    with np.errstate(all="ignore"):
        ratios = np.where(noise > 0, noise / signal, 0.0)
    return float(np.nan_to_num(ratios, nan=np.inf).max(initial=0.0))
