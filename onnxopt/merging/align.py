"""Which inputs of the members are the same, and whether their outputs can be combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.errors import ModelError, UsageError, nearest
from onnxopt.merging.adapt import Adapter
from onnxopt.merging.member import Member

__all__ = ["Alignment", "InputMap", "align_inputs", "check_outputs"]

Shape = tuple[int | str | None, ...]
InputMap = Mapping[int, Mapping[str, str]]
"""Member number -> name of its input -> name of the shared input."""


@dataclass(frozen=True)
class Alignment:
    """Members whose inputs are fed from shared ones.

    Attributes:
        members: With ``feeds`` and ``adapters`` filled in.
        inputs: The shared inputs.
        symbols: For each member, its names of free sizes -> those of the shared inputs.
        notes: What was matched otherwise than by name.
    """

    members: tuple[Member, ...]
    inputs: tuple[TensorSpec, ...]
    symbols: tuple[Mapping[str, str], ...]
    notes: tuple[Note, ...]


def align_inputs(
    members: Sequence[Member], input_map: InputMap | None = None, adapters: Mapping[int, Adapter] | None = None
) -> Alignment:
    """Feeds the inputs of all members from shared ones: by the map, by name, or by order where no name is known.

    The first member that takes an input says what it is called; one without an adapter says what it looks like.

    Raises:
        UsageError: The map names an input that there is not.
        ModelError: Inputs cannot be matched, or differ in type or shape.
    """
    given, changed = input_map or {}, adapters or {}
    notes: list[Note] = []
    placed: list[Member] = []
    known: list[str] = []
    for index, member in enumerate(members):
        feeds = _matched(member, known, given.get(index, {}), notes, is_first=index == 0)
        known += [name for name in feeds.values() if name not in known]
        adapter = changed.get(index)
        own: dict[str, Adapter] = {}
        if adapter is not None:
            images = [s for s in member.inputs if s.dtype is not None and len(s.shape or ()) > 1] or list(member.inputs)
            adapter.check(images[0], f"--preprocess, {member.title}")
            own = {images[0].name: adapter}
        placed.append(replace(member, feeds=feeds, adapters=own))
    symbols: list[dict[str, str]] = [{} for _ in placed]
    inputs = tuple(_shared(name, placed, symbols) for name in known)
    return Alignment(tuple(placed), inputs, tuple(symbols), tuple(notes))


def _matched(
    member: Member, known: Sequence[str], given: Mapping[str, str], notes: list[Note], *, is_first: bool
) -> dict[str, str]:
    """Input of the member -> shared input."""
    names = [spec.name for spec in member.inputs]
    for name in given:
        if name not in names:
            raise UsageError(f"{member.title} has no input {name!r}", where="--input-map", fix=nearest(name, names))
    feeds = dict(given)
    taken = set(feeds.values())
    if is_first:
        return {name: feeds.get(name, name) for name in names}
    feeds |= {name: name for name in names if name in known and name not in feeds and name not in taken}
    rest = [name for name in names if name not in feeds]
    free = [name for name in known if name not in feeds.values()]
    if not rest:
        return {name: feeds[name] for name in names}
    if len(rest) == len(free) and (len(feeds) == 0 or len(rest) == 1):
        notes.append(
            Note(
                member.title, "matched", "by order: " + ", ".join(f"{a} = {b}" for a, b in zip(rest, free, strict=True))
            )
        )
        feeds |= dict(zip(rest, free, strict=True))
    elif not free:
        notes.append(Note(member.title, "added", f"its own input {', '.join(rest)}"))
        feeds |= {name: name for name in rest}
    else:
        raise ModelError(
            f"it is not clear what feeds {', '.join(map(repr, rest))}: the shared inputs are "
            f"{', '.join(map(repr, known))}",
            where=f"inputs of {member.title}",
            fix=f"say it with --input-map '{member.title}:{rest[0]}={free[0]}'",
        )
    return {name: feeds[name] for name in names}


def _shared(name: str, members: Sequence[Member], symbols: Sequence[dict[str, str]]) -> TensorSpec:
    """The shared input of that name: what all members that take it agree on; fills in ``symbols``."""
    readers = [
        (k, member, spec)
        for k, member in enumerate(members)
        for spec in member.inputs
        if member.feeds[spec.name] == name
    ]
    plain = [r for r in readers if r[2].name not in r[1].adapters]
    if not plain:
        first = readers[0]
        spec = first[1].adapters[first[2].name].shared(first[2])
        for _, member, own in readers[1:]:
            other = member.adapters[own.name].shared(own)
            if len(other.shape or ()) != len(spec.shape or ()):
                raise _differ(member, own, f"made of {other}, and {first[1].title} makes its own of {spec}")
        return TensorSpec(name, spec.dtype, spec.shape)
    _, title, dtype = plain[0][0], plain[0][1].title, plain[0][2].dtype
    shape: Shape | None = None
    for k, member, spec in plain:
        if spec.dtype != dtype:
            raise _differ(member, spec, f"{_kind(spec.dtype)}, and in {title} it is {_kind(dtype)}")
        if spec.shape is None:
            continue
        if shape is None:
            shape = tuple(_symbol(size, symbols[k]) for size in spec.shape)
            continue
        if len(spec.shape) != len(shape):
            raise _differ(member, spec, f"and in {title} it has the shape {list(shape)}")
        merged: list[int | str | None] = []
        for size, other in zip(spec.shape, shape, strict=True):
            if isinstance(size, int) and isinstance(other, int) and size != other:
                raise _differ(member, spec, f"and in {title} it has the shape {list(shape)}")
            if isinstance(size, str) and isinstance(other, str):
                symbols[k].setdefault(size, other)
            merged.append(size if isinstance(size, int) else other if other is not None else _symbol(size, symbols[k]))
        shape = tuple(merged)
    return TensorSpec(name, dtype, shape)


def _symbol(size: int | str | None, own: Mapping[str, str]) -> int | str | None:
    return own.get(size, size) if isinstance(size, str) else size


def _kind(dtype: np.dtype[np.generic] | None) -> str:
    return "no tensor" if dtype is None else dtype.name


def _differ(member: Member, spec: TensorSpec, why: str) -> ModelError:
    return ModelError(
        f"the members cannot share an input: {spec} in {member.title}, {why}",
        where=f"input {spec.name!r} of {member.title}",
        fix="give --preprocess for the member whose input differs (layout, size, scale), or --input-map",
    )


def check_outputs(members: Sequence[Member], shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape, but for the batch, that all outputs are brought to: that of the first.

    Outputs that differ in axes of size 1 only, such as ``(n, 10)`` and ``(n, 10, 1, 1)``, are the same.

    Args:
        members: Whose outputs these are.
        shapes: Of one call, the batch included.

    Raises:
        ModelError: They have different numbers of classes or other sizes.
    """
    first = shapes[0]
    for member, shape in zip(members[1:], shapes[1:], strict=True):
        if _squeezed(shape) == _squeezed(first):
            continue
        what = "shapes"
        if len(shape) == len(first) == 2:
            what = "numbers of classes"
        raise ModelError(
            f"the members have outputs of different {what}: {members[0].title} gives {list(first)}, {member.title} "
            f"gives {list(shape)}",
            where=f"output {member.output!r} of {member.title}, {members[0].output!r} of {members[0].title}",
            fix="merge models of one task, or choose the outputs that belong together with --output-name",
        )
    return first[1:]


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:1], *(size for size in shape[1:] if size != 1))


def class_labels(member: Member) -> tuple[str, ...] | None:
    """The names of the classes, as a classifier of ai.onnx.ml states them."""
    for node in member.model.graph:
        for key in ("classlabels_int64s", "classlabels_ints", "classlabels_strings"):
            if key in node.attributes and not node.attributes[key].is_ref():
                return tuple(str(item) for item in cast("Sequence[object]", node.attributes[key].value))
    return None
