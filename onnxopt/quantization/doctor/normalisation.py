"""Were the data normalised as in training? The model is asked: by what it stored, or by how it reacts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxopt.core.query import Model, TensorSpec
from onnxopt.core.report import JSON, Note, Table
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, ModelError
from onnxopt.passes.base import Context
from onnxopt.quantization.doctor.answer import Answer, Word
from onnxopt.quantization.doctor.evidence import Folded, folded_evidence, stored_evidence
from onnxopt.quantization.doctor.moments import Moments
from onnxopt.quantization.doctor.readings import AS_GIVEN, Reading, alternatives, recognised
from onnxopt.quantization.doctor.samples import Inventory, channel_axis

__all__ = ["judge_normalisation"]

Array: TypeAlias = np.ndarray[Any, Any]

SAMPLES = 32
WHOLE_RUNS = 16
"""Samples on which the whole model runs, once for each reading; the first layers alone run on ``SAMPLES``."""
QUESTION = "Normalised as in training?"
FITS_TWICE = 0.5
"""A reading fits far better when its distance from the stored statistics is less than this share of the other's,"""
CLEAR_BY = 0.15
"""and less by this much, on each part of the samples. Right data were seen at 0.05 to 0.25, wrong ones from 0.35 on."""
FAR = 1.0
"""A distance that no right data were seen at."""
PLAUSIBLE = 1.0
"""Decades that the spread over the bias may be away from 1; right data were seen at 0.5 at most,"""
IMPLAUSIBLE = 1.5
"""wrong ones from 1.8 on."""
TOLD_MORE = 1.05
TOLD_FAR_MORE = 1.75
"""Factors on the information about the sample that the outputs carry."""
AS_GOOD = 1.1
"""Readings whose information differs by less than this factor suit the model equally well."""
TOLD_ENOUGH = 0.5
"""Nats below which outputs tell too little of any reading."""


def judge_normalisation(model: Model, specs: tuple[TensorSpec, ...], found: Inventory, ctx: Context) -> Answer:
    """Whether another reading of the data (scaled, standardised, channels reversed) suits the model far better."""
    chosen = _main_input(specs, found)
    if chosen is None:
        return _unknown("no input holds floating-point values that vary")
    name, low, high = chosen
    data = found.usable.take(_some(len(found.usable), SAMPLES))
    shape = data[0].feeds[name].shape
    axis = channel_axis(shape)
    mean, std = _moments(data, name, axis)
    given = recognised(low, high) if axis is not None else ()
    readings = (AS_GIVEN, *alternatives(given, mean, std))
    looks = " or ".join(dict.fromkeys(c.name for c in given)) or "no known convention of images"
    if axis is None:
        looks = "no images"
    try:
        stored = stored_evidence(model, name, axis, readings, data, ctx)
        if stored is not None:
            return _by_statistics(stored, name, looks)
        few = data.take(_some(len(data), WHOLE_RUNS))
        folded = folded_evidence(model, name, axis, readings, few, ctx)
    except (DataError, ModelError) as error:
        return _unknown(error.what)
    if folded is None:
        return _unknown("the model holds no BatchNormalization and no first layer with a bias")
    return _by_reaction(folded, name, looks)


def _by_statistics(found: Mapping[Reading, tuple[float, ...]], name: str, looks: str) -> Answer:
    distance = {r: float(np.mean(folds)) for r, folds in found.items()}
    best = min(distance, key=distance.__getitem__)
    own = distance[AS_GIVEN]
    every = all(a < b for a, b in zip(found[best], found[AS_GIVEN], strict=True))
    rows = tuple((r.name, d) for r, d in sorted(distance.items(), key=lambda item: item[1]))
    table = Table("Distance from the stored BatchNormalization statistics", ("data", "distance"), rows)
    data: dict[str, JSON] = {
        "evidence": "stored statistics",
        "input": name,
        "looks_like": looks,
        "distance": {r.name: d for r, d in distance.items()},
    }
    if best is not AS_GIVEN and distance[best] < FITS_TWICE * own and own - distance[best] > CLEAR_BY and every:
        why = f"distance {distance[best]:.2g} from the statistics that BatchNormalization stores, as given {own:.2g}"
        return _wrong("unusable", [best], name, looks, why, table, data)
    if own > FAR:
        reason = f"the data are far ({own:.2g}) from the statistics that BatchNormalization stores, in every reading"
        note = Note(f"input {name!r}", "check", "compare with the preprocessing of the training")
        return Answer("normalisation", QUESTION, "doubtful", reason, table, (note,), data)
    reason = f"the data as given are {own:.2g} away from the statistics that BatchNormalization stores"
    return Answer("normalisation", QUESTION, "fine", reason + _order(distance), table, (), data)


def _order(distance: Mapping[Reading, float]) -> str:
    """What the model says about the order of the channels."""
    swapped = next((d for r, d in distance.items() if r.is_reversed and set(r.factor) == {1.0}), None)
    if swapped is None:
        return ""
    own = distance[AS_GIVEN]
    if min(own, swapped) < FITS_TWICE * max(own, swapped) and abs(own - swapped) > CLEAR_BY:
        return "; RGB against BGR is right" if own < swapped else ""
    return "; RGB or BGR cannot be told from these data"


def _by_reaction(found: Mapping[Reading, Folded], name: str, looks: str) -> Answer:
    own = found[AS_GIVEN]
    rows = tuple((r.name, f.spread, f.dead, f.information) for r, f in found.items())
    columns = ("data", "spread / bias", "dead channels", "information (nats)")
    table = Table("How the model reacts", columns, rows)
    data: dict[str, JSON] = {
        "evidence": "reaction",
        "input": name,
        "looks_like": looks,
        "reaction": {
            r.name: {"spread": f.spread, "dead": f.dead, "information": f.information} for r, f in found.items()
        },
    }
    fitting, word = _fitting(found)
    if fitting:
        best = fitting[0]
        return _wrong(word, fitting, name, looks, _compared(found[best], own), table, data)
    reason = "no other reading suits the model clearly better (no statistics are stored: weak evidence)"
    return Answer("normalisation", QUESTION, "fine", reason, table, (), data)


def _fitting(found: Mapping[Reading, Folded]) -> tuple[list[Reading], Word]:
    """The readings that suit the model clearly better than the data as given, about equally well; how sure that is."""
    own = found[AS_GIVEN]
    others = {r: f for r, f in found.items() if r is not AS_GIVEN}
    if _decades(own) > IMPLAUSIBLE:
        plausible = {r: f for r, f in others.items() if _decades(f) < PLAUSIBLE}
        sure = {r: f for r, f in plausible.items() if _tells_more(f, own, TOLD_MORE)}
        if sure:
            return _best_told(sure), "unusable"
        undecided = {r: f for r, f in plausible.items() if not _tells_more(own, f, TOLD_MORE)}
        if undecided:
            return [min(undecided, key=lambda r: (r.is_reversed, _decades(undecided[r])))], "doubtful"
    far = {r: f for r, f in others.items() if _tells_more(f, own, TOLD_FAR_MORE) and _decades(f) < IMPLAUSIBLE}
    return _best_told(far), "unusable"


def _best_told(found: Mapping[Reading, Folded]) -> list[Reading]:
    """Those of most information, in their order; channels are not reversed, nor conventions left, without need."""
    most = max((f.information or 0.0 for f in found.values()), default=0.0)
    best = [r for r, f in found.items() if (f.information or 0.0) * AS_GOOD >= most]
    plain = [r for r in best if not r.is_reversed]
    return [r for r in plain if r.is_known] or plain or best


def _tells_more(one: Folded, other: Folded, factor: float) -> bool:
    """Whether the outputs tell the samples apart better by ``factor``; never where the model is no classifier."""
    if one.information is None or other.information is None:
        return False
    return one.information > max(factor * other.information, TOLD_ENOUGH)


def _decades(found: Folded) -> float:
    return abs(math.log10(found.spread)) if found.spread > 0 and math.isfinite(found.spread) else math.inf


def _compared(one: Folded, other: Folded) -> str:
    parts = [f"spread over bias {one.spread:.2g}, as given {other.spread:.2g}"]
    if one.information is not None and other.information is not None:
        parts.append(f"information about the sample {one.information:.2g} nats, as given {other.information:.2g}")
    return "; ".join(parts)


def _wrong(
    word: Word, fitting: Sequence[Reading], name: str, looks: str, why: str, table: Table, data: dict[str, JSON]
) -> Answer:
    best, sure = fitting[0], "likely" if word == "unusable" else "possibly"
    expected = " or ".join(repr(r.name) for r in fitting)
    reason = f"{sure} wrong: the model expects {expected} ({why})"
    pairs = f"multiply by {_numbers(best.factor)}, then add {_numbers(best.offset)}"
    steps = ("reverse the channels, " if best.is_reversed else "") + pairs
    advice = Note(f"input {name!r}", "normalise", f"the data look like {looks}; {steps} (images: preprocess.toml)")
    return Answer(
        "normalisation", QUESTION, word, reason, table, (advice,), {**data, "likely": [r.name for r in fitting]}
    )


def _numbers(values: tuple[float, ...]) -> str:
    shown = list(dict.fromkeys(f"{v:.5g}" for v in values))
    return shown[0] if len(shown) == 1 else "(" + ", ".join(f"{v:.5g}" for v in values) + ")"


def _unknown(reason: str) -> Answer:
    return Answer("normalisation", QUESTION, "unknown", f"cannot be told: {reason}")


def _main_input(specs: tuple[TensorSpec, ...], found: Inventory) -> tuple[str, Array, Array] | None:
    """The floating-point input with the most dimensions that varies, and its extremes."""
    floats = [s for s in specs if s.dtype is not None and s.dtype.kind == "f" and s.name in found.inputs]
    varying = [s for s in floats if (found.inputs[s.name].low < found.inputs[s.name].high).any()]
    if not varying:
        return None
    chosen = max(varying, key=lambda s: len(s.shape or ()))
    seen = found.inputs[chosen.name]
    return chosen.name, seen.low.astype(np.float64), seen.high.astype(np.float64)


def _some(count: int, most: int) -> list[int]:
    """At most ``most`` indices, spread over all."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))})


def _moments(data: Dataset, name: str, axis: int | None) -> tuple[Array, Array]:
    moments = Moments()
    for sample in data:
        array = sample.feeds[name]
        moments.update(np.moveaxis(array, axis, 1) if axis is not None else array.reshape(-1, 1))
    return moments.mean, moments.std
