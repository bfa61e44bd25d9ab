"""Operators that choose elements by their place, or put them there; and the largest ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxopt.recover.bridge.site import Function, Site, Unary, operator
from onnxopt.recover.bridge.types import integers


@operator("Gather")
def gather(site: Site) -> Function:
    """Slices along an axis, at indices that may count from the end."""
    axis = site.int("axis", 0)
    known = site.constant(1)
    only = int(known) if known is not None and known.ndim == 0 else None

    def run(x: Tensor, index: Tensor) -> Tensor:
        if only is not None:
            return x.select(axis, only)
        along = axis % x.ndim
        flat = index.reshape(-1).long()
        if x.ndim == 2 and along == 0 and x.is_floating_point():
            return torch.nn.functional.embedding(torch.where(index < 0, index + x.shape[0], index).long(), x)
        picked = x.index_select(along, torch.where(flat < 0, flat + x.shape[along], flat))
        return picked.reshape(*x.shape[:along], *index.shape, *x.shape[along + 1 :])

    return run


@operator("GatherElements")
def gather_elements(site: Site) -> Function:
    """Elements along an axis, one for each index."""
    axis = site.int("axis", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        index = index.long()
        return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))

    return run


@operator("GatherND")
def gather_nd(site: Site) -> Function:
    """Slices at tuples of indices, the last axis of the second value."""
    batch = site.int("batch_dims", 0)

    def run(x: Tensor, index: Tensor) -> Tensor:
        index = index.long()
        lead = index.shape[:batch]
        rows = [
            torch.arange(size, device=x.device).reshape(*[-1 if i == axis else 1 for i in range(index.ndim - 1)])
            for axis, size in enumerate(lead)
        ]
        return x[(*rows, *index.unbind(-1))]

    return run


@operator("Scatter", "ScatterElements")
def scatter_elements(site: Site) -> Function:
    """Elements put along an axis, or combined with what is there."""
    axis, reduction = site.int("axis", 0), site.string("reduction", "none")
    words = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        index = index.long()
        index = torch.where(index < 0, index + x.shape[axis], index)
        if reduction == "none":
            return x.scatter(axis, index, updates)
        return x.scatter_reduce(axis, index, updates, words[reduction], include_self=True)

    return run


@operator("ScatterND")
def scatter_nd(site: Site) -> Function:
    """Slices put at tuples of indices, or combined with what is there."""
    reduction = site.string("reduction", "none")
    words = {"mul": "prod", "max": "amax", "min": "amin"}

    def run(x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        places = tuple(i.long() for i in index.unbind(-1))
        if reduction in ("none", "add"):
            return x.index_put(places, updates, accumulate=reduction == "add")
        depth = index.shape[-1]
        head, tail = x.shape[:depth], x.shape[depth:]
        flat = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
        for size, place in zip(head, places, strict=True):
            flat = flat * size + torch.where(place < 0, place + size, place)
        rows, data = flat.reshape(-1), x.reshape(head.numel(), tail.numel())
        wide = rows[:, None].expand(-1, tail.numel())
        new = updates.reshape(rows.numel(), tail.numel())
        return data.scatter_reduce(0, wide, new, words[reduction], include_self=True).reshape(x.shape)

    return run


@operator("Compress")
def compress(site: Site) -> Function:
    """The slices along an axis, or the elements, whose condition holds."""
    axis = site.attribute("axis")
    along = None if axis is None else axis.as_int()

    def run(x: Tensor, condition: Tensor) -> Tensor:
        chosen = condition.nonzero().reshape(-1)
        return x.reshape(-1)[chosen] if along is None else x.index_select(along, chosen)

    return run


@operator("NonZero")
def non_zero(site: Site) -> Unary:
    """The places of all that is not zero, one column each."""
    del site
    return lambda x: x.nonzero().t() if x.ndim else (x != 0).reshape(1).nonzero().t()[:0]


@operator("OneHot")
def one_hot(site: Site) -> Function:
    """A new axis that is on at one place and off elsewhere; indices outside are off everywhere."""
    axis = site.int("axis", -1)

    def run(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        size = integers(depth)[0]
        index = indices.long()
        index = torch.where(index < 0, index + size, index)
        place = axis if axis >= 0 else axis + index.ndim + 1
        steps = torch.arange(size, device=index.device)
        is_on = index.unsqueeze(place) == steps.reshape(-1, *[1] * (index.ndim - place))
        return torch.where(is_on, values[1], values[0])

    return run


@operator("TopK")
def top_k(site: Site) -> Function:
    """The largest or smallest elements along an axis, and their places; of equal ones the first."""
    axis, largest = site.int("axis", -1), bool(site.int("largest", 1))
    known, count = site.int("k", 1), site.listed(1)

    def run(x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
        wanted = (count(k) or [known])[0]
        order = torch.sort(x, dim=axis, descending=largest, stable=True)
        return order.values.narrow(axis, 0, wanted), order.indices.narrow(axis, 0, wanted)

    return run


@operator("ArgMax", "ArgMin")
def arg_extreme(site: Site) -> Unary:
    """The place of the largest or smallest element, the first or the last of equal ones."""
    axis, keep = site.int("axis", 0), bool(site.int("keepdims", 1))
    is_last = bool(site.int("select_last_index", 0))
    extreme: Callable[..., Tensor] = torch.amax if site.node.op_type == "ArgMax" else torch.amin

    def run(x: Tensor) -> Tensor:
        hits = (x == extreme(x, dim=axis, keepdim=True)).to(torch.uint8)
        if is_last:
            return x.shape[axis] - 1 - torch.argmax(hits.flip(axis), axis, keepdim=keep)
        return torch.argmax(hits, axis, keepdim=keep)

    return run


@operator("TensorScatter")
def tensor_scatter(site: Site) -> Function:
    """A cache with new entries from a place on, of each sequence of the batch."""
    axis, circular = site.int("axis", -2), site.string("mode", "linear") == "circular"

    def run(cache: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
        along = axis % cache.ndim
        moved, new = cache.movedim(along, 1), update.movedim(along, 1)
        begin = torch.zeros(len(moved), dtype=torch.int64, device=cache.device) if start is None else start.long()
        place = begin[:, None] + torch.arange(new.shape[1], device=cache.device)
        place = place % moved.shape[1] if circular else place
        rows = torch.arange(len(moved), device=cache.device)[:, None].expand_as(place)
        return moved.index_put((rows, place), new).movedim(1, along)

    return run
