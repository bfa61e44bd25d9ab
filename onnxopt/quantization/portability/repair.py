"""A quantized model that stays right on x86 CPUs without VNNI: only the layers that saturation harms are changed.

Of the ways to store the weights of such a layer the one of least output error is taken that costs no time: as they are,
or narrow (``weights``). Where narrow weights lose more than ``COARSE_DB``, and that would be noticed beside the
rounding of the activations, the layer gets unsigned ones, which are exact and take longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.portability.audit import SAMPLES, Audit, Risk, audit
from onnxopt.quantization.portability.errors import FormError, form_errors
from onnxopt.quantization.portability.weights import readers, stored
from onnxopt.quantization.select import COMPUTE
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.session import Feeds

__all__ = ["Repair", "Repaired", "repair"]

ROUNDS = 3
"""A repaired layer changes what later ones read, so that the search is repeated, at most so many times."""
COARSE_DB = 6.0
"""Narrow weights that lose more than this, about one bit, are not worth their speed ..."""
GOOD_DB = 40.0
"""... unless they are as good as this, which activations of 8 bits hardly reach."""


@dataclass(frozen=True)
class Repair:
    """What was done about one layer that can saturate.

    Attributes:
        layer: Its label in the float model.
        risk: What saturation did to it.
        form: ``"kept"``, ``"narrow"`` or ``"unsigned"``.
        error: What its weights do to its output, in full and on a narrow grid; ``None``: not known (nested graphs).
    """

    layer: str
    risk: Risk
    form: str
    error: FormError | None


@dataclass(frozen=True, eq=False)
class Repaired:
    """A quantized model and what becomes of it without VNNI.

    Attributes:
        item: The pass that makes it, with the repairs among its options.
        result: What it makes.
        before: What was found before any repair.
        after: What is found now; the same as ``before`` where nothing was repaired.
        repairs: The layers that could saturate before.
    """

    item: StaticQuantize | DynamicQuantize
    result: PassResult
    before: Audit
    after: Audit
    repairs: tuple[Repair, ...]

    @property
    def is_changed(self) -> bool:
        """Whether a layer was repaired."""
        return bool(self.item.narrow or self.item.unsigned)

    @property
    def notes(self) -> tuple[Note, ...]:
        """The cost of the repairs, and what is not simulated."""
        forms = [r.form for r in self.repairs]
        costs = [
            Note(f"{forms.count(form)} layers", f"{form} weights", cost)
            for form, cost in (
                ("narrow", "no pair of products can saturate; no cost in time or size, the grid is coarser"),
                ("unsigned", "exact; about 4/3 of the instructions on AVX2, over twice the time where there is VNNI"),
            )
            if form in forms
        ]
        return (*costs, *self.after.notes)


def repair(
    item: StaticQuantize | DynamicQuantize,
    model: Model,
    result: PassResult,
    path: Path,
    feeds: Sequence[Feeds],
    ctx: Context,
) -> Repaired:
    """``result`` with the layers repaired that saturation harms on the first samples.

    Args:
        item: The pass that made ``result``.
        model: The float model that it was made from; it is not changed.
        result: The quantized model; not changed, and returned as it is where there is nothing to repair.
        path: Its file; the repaired model takes its place.
        feeds: Samples to use where there are no calibration data.
        ctx: Calibration data, target, folder.
    """
    real = ctx.data is not None and not ctx.data.synthetic
    samples = [s.feeds for s in islice(ctx.data, SAMPLES)] if real and ctx.data is not None else list(feeds)
    before = after = audit(path, samples, ctx, name=f"{path.stem}-before")
    layers = readers(model, COMPUTE)
    found: dict[str, Repair] = {}
    errors: dict[str, FormError] = {}
    for _ in range(ROUNDS):
        origin = stored([risk.weight for risk in after.risks], layers)
        new = {origin[r.weight]: r for r in after.risks if r.weight in origin and origin[r.weight] not in found}
        if not any(r.happens for r in new.values()):
            break
        happening = {n: layers[n][0] for n, r in new.items() if r.happens and n not in errors}
        errors |= form_errors(model, happening, item.scheme.weights, samples, ctx)
        chosen = {name: _form(risk, errors.get(name)) for name, risk in new.items()}
        repaired = {n: Repair(label(layers[n][0]), new[n], f, errors.get(n)) for n, f in chosen.items() if f != "kept"}
        if not repaired:
            break
        found |= repaired
        item = replace(
            item,
            narrow=tuple(sorted(n for n, r in found.items() if r.form == "narrow")),
            unsigned=tuple(sorted(n for n, r in found.items() if r.form == "unsigned")),
        )
        result = item.run(model.clone(), ctx)
        save_scratch(result.model, path)
        after = audit(path, samples, ctx)
    origin = stored([risk.weight for risk in before.risks], layers)
    for risk in before.risks:
        name = origin.get(risk.weight, risk.weight)
        shown = label(layers[name][0]) if name in layers else name
        found.setdefault(name, Repair(shown, risk, "kept", errors.get(name)))
    return Repaired(item, result, before, after, tuple(found.values()))


def _form(risk: Risk, error: FormError | None) -> str:
    """How the weights of a layer are stored that saturates, or can."""
    if not risk.happens:
        return "kept"
    if error is None or risk.sqnr_db is None:
        return "narrow"
    if _together(error.exact_db, risk.sqnr_db) >= error.narrow_db:
        return "kept"
    is_fine = error.narrow_db >= GOOD_DB or error.exact_db - error.narrow_db <= COARSE_DB
    return "narrow" if is_fine else "unsigned"


def _together(first_db: float, second_db: float) -> float:
    """The ratio of signal to the sum of two errors that are not correlated."""
    noise = 10 ** (-first_db / 10) + 10 ** (-second_db / 10)
    return -10 * math.log10(noise) if noise > 0 else math.inf
