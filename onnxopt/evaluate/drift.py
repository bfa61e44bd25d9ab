"""How far the outputs of two models are apart, output by output, in one pass and constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxopt.errors import DataError
from onnxopt.evaluate.outputs import is_number, leaves
from onnxopt.evaluate.rows import Array

__all__ = ["DriftMeter", "OutputDrift", "collapsed"]

COLLAPSED_DB = 6.0


@dataclass(frozen=True)
class OutputDrift:
    """Distance between two models at one output.

    Attributes:
        name: Name of the output.
        elements: Elements that were compared.
        sqnr_db: ``10 log10(sum ref^2 / sum (ref - cand)^2)``; infinite when equal.
        cosine: Of all values finite in both as one vector; 1 for two zero vectors.
        max_abs: Largest absolute difference.
        max_rel: Largest absolute difference of a call over the largest magnitude of the reference in that call.
        share_equal: Share of equal elements (two NaN are equal).
        nonfinite: Elements that are NaN or infinite in the candidate only: an infinite error.
        resized: Calls whose data-dependent sizes differ; their elements are not compared.

    The four distances are ``None`` for strings and where no element was compared. What is NaN or infinite in the
    reference counts only in ``share_equal``.
    """

    name: str
    elements: int
    sqnr_db: float | None
    cosine: float | None
    max_abs: float | None
    max_rel: float | None
    share_equal: float
    nonfinite: int
    resized: int


@dataclass
class _Sums:
    """Running sums of one output; mutable because calls stream in."""

    numeric: bool = True
    elements: int = 0
    equal: int = 0
    nonfinite: int = 0
    resized: int = 0
    reference: float = 0.0
    candidate: float = 0.0
    product: float = 0.0
    error: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0


def collapsed(drift: Iterable[OutputDrift], *, judged: str) -> OutputDrift | None:
    """The first output beside the judged one that is lost: NaN or infinite, or with an error above half its size.

    A metric judges one output only; the others must at least survive.
    """
    for output in drift:
        if output.name == judged or output.sqnr_db is None:
            continue
        if output.nonfinite or (math.isfinite(output.sqnr_db) and output.sqnr_db < COLLAPSED_DB):
            return output
    return None


class DriftMeter:
    """Takes the outputs of both models call by call; mutable because they stream in."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def update(self, reference: Mapping[str, object], candidate: Mapping[str, object]) -> None:
        """Adds one call's outputs: arrays, sequences (lists), maps or ``None``.

        Raises:
            DataError: An output is missing in the candidate, or its type or rank differs.
        """
        for name, value in reference.items():
            if name not in candidate:
                raise DataError(
                    "the candidate does not return this output",
                    where=f"output {name!r}",
                    fix="compare models with the same outputs",
                )
            sums = self._sums.setdefault(name, _Sums())
            first, second = leaves(value), leaves(candidate[name])
            if len(first) != len(second):
                sums.resized += 1
                continue
            for a, b in zip(first, second, strict=True):
                _check_kind(name, a, b)
            if any(a.shape != b.shape for a, b in zip(first, second, strict=True)):
                sums.resized += 1
                continue
            for a, b in zip(first, second, strict=True):
                _add(sums, a, b)

    def result(self) -> tuple[OutputDrift, ...]:
        """The drift of each output seen so far, in order."""
        return tuple(_drift(name, sums) for name, sums in self._sums.items())


def _check_kind(name: str, reference: Array, candidate: Array) -> None:
    same_type = reference.dtype == candidate.dtype or not (is_number(reference) or is_number(candidate))
    if same_type and reference.ndim == candidate.ndim:
        return
    raise DataError(
        f"the models return different kinds of values: {reference.dtype.name}{list(reference.shape)} in the reference, "
        f"{candidate.dtype.name}{list(candidate.shape)} in the candidate",
        where=f"output {name!r}",
        fix="compare models whose outputs have the same types and ranks",
    )


def _add(sums: _Sums, reference: Array, candidate: Array) -> None:
    sums.elements += reference.size
    if not is_number(reference):
        sums.numeric = False
        sums.equal += int((reference == candidate).sum())
        return
    with np.errstate(all="ignore"):
        a, b = reference.astype(np.float64), candidate.astype(np.float64)
        sums.equal += int(((reference == candidate) | (np.isnan(a) & np.isnan(b))).sum())
        finite = np.isfinite(a)
        both = finite & np.isfinite(b)
        lost = int(finite.sum() - both.sum())
        sums.nonfinite += lost
        if not both.all():
            a, b = a[both], b[both]
        difference = np.abs(a - b)
        sums.reference += float((a * a).sum())
        sums.candidate += float((b * b).sum())
        sums.product += float((a * b).sum())
        sums.error += float((difference * difference).sum())
    largest, magnitude = math.inf if lost else float(difference.max(initial=0.0)), float(np.abs(a).max(initial=0.0))
    sums.max_abs = max(sums.max_abs, largest)
    if largest > 0:
        sums.max_rel = max(sums.max_rel, largest / magnitude if magnitude > 0 else math.inf)


def _drift(name: str, sums: _Sums) -> OutputDrift:
    share = sums.equal / sums.elements if sums.elements else float(sums.resized == 0)
    if not sums.numeric or not sums.elements:
        return OutputDrift(name, sums.elements, None, None, None, None, share, 0, sums.resized)
    norms = math.sqrt(sums.reference) * math.sqrt(sums.candidate)
    cosine = max(-1.0, min(1.0, sums.product / norms)) if norms > 0 else float(sums.reference == sums.candidate)
    if sums.error == 0:
        cosine = 1.0
    return OutputDrift(
        name,
        sums.elements,
        -math.inf if sums.nonfinite else _decibel(sums.reference, sums.error),
        cosine,
        sums.max_abs,
        sums.max_rel,
        share,
        sums.nonfinite,
        sums.resized,
    )


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf
