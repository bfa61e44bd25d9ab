"""Runs a changed model beside the one it came from and raises unless it is the same function (or, if lossy, sane)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.core.report import Note
from onnxopt.errors import DataError, InputError, VerificationError
from onnxopt.evaluate.drift import DriftMeter, OutputDrift
from onnxopt.evaluate.interface import data_dependent, interface_difference
from onnxopt.evaluate.outputs import is_floating, is_number, leaves
from onnxopt.evaluate.rows import Array
from onnxopt.run.session import Feeds, Session, open_session
from onnxopt.run.target import Target

__all__ = ["Verification", "verify"]

RERUNS = 2
"""Times a reference is run again when an output differs, to see whether it differs from itself."""


@dataclass(frozen=True)
class Verification:
    """What was verified.

    Attributes:
        feeds: Calls of both models.
        drift: Distance at each verified output.
        notes: Outputs that could not be verified, with the reason.
    """

    feeds: int
    drift: tuple[OutputDrift, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class _Tolerance:
    rtol: float
    atol: float
    exact: bool


def verify(
    reference: Path,
    candidate: Path,
    feeds: Iterable[Feeds],
    target: Target,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    exact: bool = True,
) -> Verification:
    """What was verified, when the candidate can stand in for the reference.

    The candidate must load, have the same interface in the same order, and be finite where the reference is. With
    ``exact`` each floating-point output must lie within ``max|ref - cand| <= atol + rtol max|ref|`` in each call (the
    error of a sum scales with its largest terms, not with each result) and all others must be equal. Without it only
    shapes, types and finiteness count, and sizes that follow from values may differ. Values that are not finite in the
    reference are not compared. An output in which the reference differs from itself is left out with a note.

    Args:
        reference: Model file before the change.
        candidate: Model file after it.
        feeds: Inputs of each call, at least one.
        target: Where the models run.
        rtol: Tolerance relative to the largest magnitude of an output.
        atol: Absolute tolerance.
        exact: Whether outputs must be equal within the tolerance.

    Raises:
        VerificationError: The candidate fails; the message names the output, the feed and the difference.
        ModelError: The reference cannot be loaded.
        DataError: The reference does not run on the feeds, or there are none.
    """
    first = open_session(reference, target)
    try:
        second = open_session(candidate, target)
    except InputError as error:
        raise _failure(f"the changed model does not load: {error.what}", candidate.name) from error
    difference = interface_difference(first, second, ordered=True)
    if difference is not None:
        raise _failure(f"the changed model has another interface: {difference}", candidate.name)
    tolerance = _Tolerance(rtol, atol, exact)
    meter = DriftMeter()
    random: dict[str, Note] = {}
    finite: set[str] = set()
    count = 0
    for index, feed in enumerate(feeds):
        expected: Mapping[str, object] = first.run(feed)
        try:
            found: Mapping[str, object] = second.run(feed)
        except DataError as error:
            raise _failure(
                f"the changed model does not run: {error.what}", f"{candidate.name}, feed {index}"
            ) from error
        count += 1
        for name in first.outputs:
            if name in random:
                continue
            problem = _problem(expected[name], found[name], tolerance, data_dependent(first, name))
            if problem is not None:
                if not _differs_from_itself(first, feed, name, expected[name], tolerance):
                    raise _failure(f"the changed model is not equivalent: {problem}", f"output {name!r}, feed {index}")
                random[name] = Note(name, "skipped", "the output of the model differs from run to run: not compared")
            elif any(_has_finite(leaf) for leaf in leaves(expected[name])):
                finite.add(name)
        kept = [name for name in first.outputs if name not in random]
        meter.update({n: expected[n] for n in kept}, {n: found[n] for n in kept})
    if not count:
        raise DataError(
            "there is no input to verify the changed model on", where=candidate.name, fix="give at least one sample"
        )
    empty = [
        Note(n, "skipped", "the model gives no finite value here on these inputs: not compared")
        for n in first.outputs
        if n not in random and n not in finite
    ]
    drift = tuple(d for d in meter.result() if d.name not in random)
    return Verification(count, drift, (*random.values(), *empty))


def _problem(expected: object, found: object, tolerance: _Tolerance, free: tuple[bool, ...]) -> str | None:
    """What is wrong with one output value, as a sentence; ``None``: nothing."""
    first, second = leaves(expected), leaves(found)
    if len(first) != len(second):
        return f"{len(second)} elements in the sequence instead of {len(first)}" if tolerance.exact else None
    for a, b in zip(first, second, strict=True):
        if a.dtype != b.dtype and (is_number(a) or is_number(b)):
            return f"type {b.dtype.name} instead of {a.dtype.name}"
        if a.shape != b.shape:
            if not tolerance.exact and _may_resize(a, b, free):
                continue
            return f"shape {list(b.shape)} instead of {list(a.shape)}"
        problem = _values_problem(a, b, tolerance)
        if problem is not None:
            return problem
    return None


def _may_resize(a: Array, b: Array, free: tuple[bool, ...]) -> bool:
    if a.ndim != b.ndim:
        return False
    return len(free) != a.ndim or all(f or x == y for f, x, y in zip(free, a.shape, b.shape, strict=True))


def _values_problem(a: Array, b: Array, tolerance: _Tolerance) -> str | None:
    if not is_floating(a):
        unequal = int((a != b).sum()) if tolerance.exact else 0
        return f"{unequal} of {a.size} values differ" if unequal else None
    first, second = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(first)
    lost = int((finite & ~np.isfinite(second)).sum())
    if lost:
        return f"{lost} of {a.size} values are NaN or infinite where the original's are finite"
    if not tolerance.exact:
        return None
    difference = float(np.abs(first[finite] - second[finite]).max(initial=0.0))
    magnitude = float(np.abs(first[finite]).max(initial=0.0))
    allowed = tolerance.atol + tolerance.rtol * magnitude
    if difference <= allowed:
        return None
    return f"largest difference {difference:.3g}, allowed {allowed:.3g} (largest magnitude {magnitude:.3g})"


def _differs_from_itself(session: Session, feed: Feeds, name: str, value: object, tolerance: _Tolerance) -> bool:
    free = data_dependent(session, name)
    return any(_problem(value, session.run(feed, [name])[name], tolerance, free) for _ in range(RERUNS))


def _has_finite(leaf: Array) -> bool:
    return leaf.size == 0 or not is_floating(leaf) or bool(np.isfinite(leaf.astype(np.float64)).any())


def _failure(what: str, where: str) -> VerificationError:
    return VerificationError(
        what,
        where=where,
        fix="nothing was written; leave this change out, and report it if the pass is one of onnxopt's",
    )
