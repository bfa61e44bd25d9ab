"""Whether two sessions can stand in for each other: names, types and declared shapes of inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnxruntime as ort

from onnxopt.run.session import Session

__all__ = ["data_dependent", "interface_difference"]


def interface_difference(reference: Session, candidate: Session, *, ordered: bool = False) -> str | None:
    """The first difference between the interfaces, as a sentence; ``None`` when they fit.

    A fixed size fits a symbolic one. With ``ordered`` the names must come in the same order too.
    """
    return _difference("input", reference.raw.get_inputs(), candidate.raw.get_inputs(), ordered) or _difference(
        "output", reference.raw.get_outputs(), candidate.raw.get_outputs(), ordered
    )


def data_dependent(session: Session, output: str) -> tuple[bool, ...]:
    """For each axis of an output, whether its size may follow from values: neither fixed nor named by an input."""
    named = {size for value in session.raw.get_inputs() for size in value.shape if isinstance(size, str)}
    shapes = {value.name: value.shape for value in session.raw.get_outputs()}
    return tuple(not isinstance(size, int) and size not in named for size in shapes[output])


def _difference(kind: str, first: Sequence[ort.NodeArg], second: Sequence[ort.NodeArg], ordered: bool) -> str | None:
    names, found = [v.name for v in first], [v.name for v in second]
    if (names != found) if ordered else (set(names) != set(found)):
        return f"{kind}s {', '.join(map(repr, found))} instead of {', '.join(map(repr, names))}"
    by_name = {v.name: v for v in second}
    for value in first:
        other = by_name[value.name]
        if value.type != other.type:
            return f"{kind} {value.name!r} is {other.type} instead of {value.type}"
        if not _fits(value.shape, other.shape):
            return f"{kind} {value.name!r} has shape {other.shape} instead of {value.shape}"
    return None


def _fits(first: Sequence[int | str | None], second: Sequence[int | str | None]) -> bool:
    if not first or not second:  # a scalar and an unknown rank look the same
        return True
    sizes = zip(first, second, strict=False)
    return len(first) == len(second) and not any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
