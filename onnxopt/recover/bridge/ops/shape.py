"""Operators that move elements or say how many there are: shapes, axes, parts, copies, types."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from onnxopt.recover.bridge.site import Function, Site, Unary, kind_of, operator


@operator("Cast")
def cast(site: Site) -> Unary:
    """The value in another type; to an integer, cut off towards zero."""
    if site.version < 6:
        kind = site.types.of(ir.DataType[site.string("to", "FLOAT").upper()], site.where)
    else:
        kind = site.type("to", ir.DataType.FLOAT) or torch.float32
    return lambda x: x.to(kind)


@operator("CastLike")
def cast_like(site: Site) -> Function:
    """The value in the type of another one."""
    kind = kind_of(site.node.inputs[1])
    if kind is not None:
        site.types.of(kind, site.where)

    def run(x: Tensor, like: Tensor) -> Tensor:
        return x.to(like.dtype)

    return run


@operator("Reshape")
def reshape(site: Site) -> Function:
    """The same elements in another shape: -1 is what is left, 0 keeps a size unless ``allowzero``."""
    shape = site.listed(1, "shape")
    keeps = not site.int("allowzero", 0)

    def run(x: Tensor, target: Tensor | None = None) -> Tensor:
        wanted = shape(target) or []
        if keeps and 0 in wanted:
            wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
        return x.reshape(wanted)

    return run


@operator("Flatten")
def flatten(site: Site) -> Unary:
    """Two axes, the first of those before ``axis``."""
    axis = site.int("axis", 1)

    def run(x: Tensor) -> Tensor:
        cut = axis if axis >= 0 else x.ndim + axis
        return x.reshape(x.shape[:cut].numel(), x.shape[cut:].numel())

    return run


@operator("Squeeze")
def squeeze(site: Site) -> Function:
    """Without axes of size 1: the named ones, or all."""
    axes = site.listed(1, "axes")

    def run(x: Tensor, named: Tensor | None = None) -> Tensor:
        chosen = axes(named)
        return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))

    return run


@operator("Unsqueeze")
def unsqueeze(site: Site) -> Function:
    """With new axes of size 1 at the named places of the result."""
    axes = site.listed(1, "axes")

    def run(x: Tensor, named: Tensor | None = None) -> Tensor:
        chosen = axes(named) or []
        rank = x.ndim + len(chosen)
        for axis in sorted(a % rank for a in chosen):
            x = x.unsqueeze(axis)
        return x

    return run


@operator("Transpose")
def transpose(site: Site) -> Unary:
    """The axes in another order; default: reversed."""
    order = site.ints("perm")
    return lambda x: x.permute(list(range(x.ndim))[::-1] if order is None else order)


@operator("Concat")
def concat(site: Site) -> Function:
    """Values one after the other along an axis."""
    axis = site.int("axis", 1)
    return lambda *values: torch.cat(values, axis)


@operator("Split")
def split(site: Site) -> Function:
    """Parts along an axis: of given sizes, or as many as there are outputs, the last one smaller if need be."""
    axis, count = site.int("axis", 0), site.int("num_outputs", len(site.node.outputs))
    sizes = site.listed(1, "split")

    def run(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        found = sizes(given)
        if found is None:
            step = -(-x.shape[axis] // count)
            found = [min(step, max(0, x.shape[axis] - i * step)) for i in range(count)]
        return torch.split(x, found, axis)

    return run


@operator("Slice")
def slice_(site: Site) -> Function:
    """A part along some axes, with steps of either sign."""
    is_new = site.version >= 10
    starts, ends = site.listed(1 if is_new else 9, "starts"), site.listed(2 if is_new else 9, "ends")
    axes, steps = site.listed(3 if is_new else 9, "axes"), site.listed(4 if is_new else 9, "")

    def run(
        x: Tensor,
        start: Tensor | None = None,
        end: Tensor | None = None,
        along: Tensor | None = None,
        step: Tensor | None = None,
    ) -> Tensor:
        begins, stops = starts(start) or [], ends(end) or []
        chosen = axes(along) or list(range(len(begins)))
        strides = steps(step) or [1] * len(begins)
        for axis, a, b, s in zip(chosen, begins, stops, strides, strict=True):
            x = _part(x, axis % x.ndim, a, b, s)
        return x

    return run


def _part(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    picked = range(x.shape[axis])[start:end:step]
    if step > 0:
        before: list[slice] = [slice(None)] * axis
        return x[(*before, slice(picked.start, max(picked.start, picked.stop), step))]
    return x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=x.device))


@operator("Expand")
def expand(site: Site) -> Function:
    """Copies along axes of size 1, as numpy broadcasts."""
    shape = site.listed(1)

    def run(x: Tensor, target: Tensor | None = None) -> Tensor:
        wanted = shape(target) or []
        sizes = [1] * (x.ndim - len(wanted)) + wanted
        kept = [1] * (len(sizes) - x.ndim) + list(x.shape)
        return x.expand([b if a == 1 else a for a, b in zip(kept, sizes, strict=True)])

    return run


@operator("Tile", since=6)
def tile(site: Site) -> Function:
    """Copies along each axis."""
    repeats = site.listed(1)

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        return x.repeat(repeats(given) or [])

    return run


@operator("Tile", since=1)
def tile_one(site: Site) -> Function:
    """Copies along one axis, as it was before opset 6."""
    del site

    def run(x: Tensor, tiles: Tensor, axis: Tensor) -> Tensor:
        counts = [1] * x.ndim
        counts[int(axis)] = int(tiles)
        return x.repeat(counts)

    return run


@operator("Shape")
def shape(site: Site) -> Unary:
    """The sizes of a value, from axis ``start`` to ``end``."""
    start, end = site.int("start", 0), site.attribute("end")
    stop = None if end is None else end.as_int()
    return lambda x: torch.tensor(x.shape[start:stop], dtype=torch.int64, device=x.device)


@operator("Size")
def size(site: Site) -> Unary:
    """The number of elements of a value."""
    del site
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64, device=x.device)
