"""Whether an ONNX file computes what its framework computes, on calls of several batch sizes and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeGuard

import numpy as np

from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.batch import batch_axes, batches, bounded
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError
from onnxopt.frameworks.base import Original, Stepped, said_by
from onnxopt.frameworks.drawing import batch_symbol, symbols
from onnxopt.run.session import Feeds, open_session
from onnxopt.run.target import Target

__all__ = [
    "Case",
    "Row",
    "cases_of",
    "differing",
    "distance",
    "is_array",
    "own_difference",
    "parity",
    "tolerance_of",
    "worst",
]

TOLERANCES = {"float64": 1e-7, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference that rounding explains, as a share of the largest value of the output."""
SMALL = 1e-3
"""Outputs that are all smaller are compared as if their largest value were this."""
UNDECIDED = 0.01
"""Share of the rows of a call (and one row always) that may lie on thresholds, where rounding decides."""
BATCHES = (1, 2, 8)
"""Sizes of the calls that are compared; the other free axes get a second size at batch 2."""


@dataclass(frozen=True)
class Case:
    """One call: the feeds, and what the framework answers.

    Attributes:
        title: ``"batch 2, length 32"``.
        feeds: Input name -> array.
        expected: The framework's outputs.
    """

    title: str
    feeds: Feeds
    expected: tuple[Array, ...]


@dataclass(frozen=True)
class Row:
    """One output of one call: framework against ONNX Runtime.

    Attributes:
        case: Title of the call.
        output: Name of the output.
        max_abs: Largest difference of two values; ``None`` where shapes or kinds differ or the call failed.
        max_rel: The same as a share of the largest value that the framework gives.
        tolerance: Largest ``max_rel`` that passes (0: equal).
        passed: Whether it does.
        reason: Why not, where it is not a number.
        undecided: Samples left out because rounding decides: they lie on a threshold, or classes are equally likely.
    """

    case: str
    output: str
    max_abs: float | None
    max_rel: float | None
    tolerance: float
    passed: bool
    reason: str = ""
    undecided: int = 0


def cases_of(original: Original, data: Dataset | None, seed: int) -> tuple[list[Case], list[Note]]:
    """The calls to compare, and those that the framework itself refuses.

    Random feeds, or samples of the data joined to the same batch sizes; free axes other than the batch are compared
    at a second size too.

    Raises:
        DataError: The framework runs on none of them.
    """
    cases: list[Case] = []
    refused: list[Note] = []
    for title, feeds in _calls(original, data, seed):
        try:
            cases.append(Case(title, feeds, original.run(feeds)))
        except Exception as error:  # frameworks share no base class of their errors
            reason = f"{original.framework} itself refuses this call: {said_by(error, 200)}"
            refused.append(Note(title, "skipped", reason))
    if not cases:
        raise DataError(
            refused[0].reason if refused else "there is no call to compare",
            where="; ".join(map(str, original.inputs)),
            fix="describe the inputs with --input, or give --data",
        )
    return cases, refused


def parity(path: Path, original: Original, cases: Sequence[Case], target: Target, tolerance: float | None) -> list[Row]:
    """One row for each output of each call; a call that ONNX Runtime refuses is a row that fails.

    Args:
        path: The exported model.
        original: What it was exported from.
        cases: The calls.
        target: Where the exported model runs.
        tolerance: Instead of those that follow from the dtype.
    """
    session = open_session(path, target)
    rows: list[Row] = []
    for case in cases:
        names = original.outputs or session.outputs
        try:
            found = session.run({name: case.feeds[name] for name in session.inputs})
        except DataError as error:
            rows.append(Row(case.title, names[0], None, None, 0.0, False, error.what))
            continue
        if len(found) != len(case.expected):
            reason = f"{len(found)} outputs instead of {len(case.expected)}"
            rows.append(Row(case.title, names[0], None, None, 0.0, False, reason))
            continue
        pairs = list(zip(session.outputs, found.values(), case.expected, strict=True))
        compared = [_row(case.title, name, value, expected, tolerance) for name, value, expected in pairs]
        if isinstance(original, Stepped) and not all(row.passed for row in compared):
            compared = _decided(original, case, pairs, compared, tolerance)
        rows += compared
    return rows


def _decided(
    original: Stepped,
    case: Case,
    pairs: Sequence[tuple[str, object, Array]],
    compared: Sequence[Row],
    tolerance: float | None,
) -> list[Row]:
    """The rows again without the samples that rounding decides; ``compared`` where shapes differ."""
    found = [value for _, value, expected in pairs if is_array(value) and value.shape == expected.shape]
    if len(found) < len(pairs):
        return list(compared)
    tied = original.tied(case.feeds, found)
    open_ = original.undecided(case.feeds, found) & ~tied
    count, most = int(open_.sum()), max(1, int(UNDECIDED * len(open_)))
    if count > most:
        reason = f"{count} of {len(open_)} samples lie on thresholds, where rounding decides; at most {most} may"
        return [replace(row, passed=False, reason=reason, undecided=count) for row in compared]
    kept = [
        _row(case.title, name, value[~(open_ | tied)], expected[~(open_ | tied)], tolerance)
        for (name, _, expected), value in zip(pairs, found, strict=True)
    ]
    return [replace(row, undecided=count + int(tied.sum())) for row in kept]


def own_difference(original: Original, cases: Sequence[Case]) -> str | None:
    """The first output that the framework itself does not give again for the same feeds; ``None``: it always does."""
    for case in cases[:1]:
        again = original.run(case.feeds)
        for index, (first, second) in enumerate(zip(case.expected, again, strict=True)):
            row = _row(case.title, "", second, first, None)
            if not row.passed:
                return original.outputs[index] if index < len(original.outputs) else f"output {index}"
    return None


def worst(rows: Sequence[Row]) -> float | None:
    """The largest relative difference; ``None`` where nothing was compared as numbers."""
    return max((row.max_rel for row in rows if row.max_rel is not None), default=None)


def tolerance_of(expected: Array) -> float:
    """The tolerance for an output of this dtype; integers, booleans and strings must be equal."""
    return TOLERANCES.get(expected.dtype.name, 0.0)


def differing(found: Array, expected: Array, tolerance: float | None = None) -> bool:
    """Whether two arrays differ by more than the tolerance."""
    return not _row("", "", found, expected, tolerance).passed


def distance(found: Array, expected: Array) -> tuple[float, float]:
    """Largest difference, and the same as a share of the largest value of ``expected``; infinite beside NaN or inf.

    Args:
        found: Array of the shape of ``expected``.
        expected: float, integer or boolean array.
    """
    first, second = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(second)
    if not np.array_equal(first[~finite], second[~finite], equal_nan=True) or not np.isfinite(first[finite]).all():
        return np.inf, np.inf
    largest = float(np.max(np.abs(first[finite] - second[finite]), initial=0.0))
    return largest, largest / float(np.max(np.abs(second[finite]), initial=SMALL))


def _row(case: str, output: str, found: object, expected: Array, tolerance: float | None) -> Row:
    if not is_array(found):
        return Row(case, output, None, None, 0.0, False, f"ONNX Runtime gives {type(found).__name__}, not an array")
    if found.shape != expected.shape:
        reason = f"shape {list(found.shape)} instead of {list(expected.shape)}"
        return Row(case, output, None, None, 0.0, False, reason)
    if expected.dtype.kind not in "biuf":
        same = bool(np.array_equal(found.astype(str), expected.astype(str)))
        return Row(case, output, None, None, 0.0, same, "" if same else "other texts")
    if found.dtype.kind not in "biuf":
        return Row(case, output, None, None, 0.0, False, f"{found.dtype.name} instead of {expected.dtype.name}")
    least = tolerance_of(expected)
    limit = least if tolerance is None or not least else tolerance
    largest, relative = distance(found, expected)
    return Row(case, output, largest, relative, limit, relative <= limit)


def is_array(value: object) -> TypeGuard[Array]:
    """Whether ONNX Runtime gave a tensor (and no sequence or map)."""
    return isinstance(value, np.ndarray)


def _calls(original: Original, data: Dataset | None, seed: int) -> Iterator[tuple[str, Feeds]]:
    many = original.batches if isinstance(original, Stepped) else BATCHES
    if data is not None:
        samples = bounded((sample.feeds for sample in islice(data, many[-1])), many[-1])
        sizes = many if batch_axes(original.inputs) else ()
        for size in sizes:
            for feeds in batches(samples, original.inputs, size, most=1):
                yield f"{_title(original, feeds)}, data", feeds
        for feeds in samples if not sizes else ():
            yield f"{_title(original, feeds)}, data", feeds
    calls = (*((size, 0) for size in many), (2, 1))
    for batch, variant in calls if data is None else calls[-1:]:
        feeds = original.feeds(batch, variant, seed) or (original.feeds(1, variant, seed) if variant else None)
        if feeds is not None:
            yield _title(original, feeds), feeds


def _title(original: Original, feeds: Feeds) -> str:
    """Sizes of the free axes in these feeds."""
    symbol = batch_symbol(original.inputs)
    sizes = _sizes(original, feeds)
    batch = "fixed batch" if symbol is None else f"batch {sizes[symbol]}"
    return ", ".join([batch, *(f"{n} {sizes[n]}" for n in symbols(original.inputs) if n != symbol and n in sizes)])


def _sizes(original: Original, feeds: Feeds) -> Mapping[str, int]:
    return {
        symbol: size
        for spec in original.inputs
        for symbol, size in zip(spec.shape or (), feeds[spec.name].shape, strict=False)
        if isinstance(symbol, str)
    }
