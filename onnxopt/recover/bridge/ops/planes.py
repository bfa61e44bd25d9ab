"""Operators that put elements around a value, mirror parts of it, or move them between channels and the plane."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.site import Function, Site, Unary, operator


@operator("DepthToSpace")
def depth_to_space(site: Site) -> Unary:
    """Channels moved into blocks of the plane."""
    b, columns_first = site.int("blocksize", 1), site.string("mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if columns_first:
            parts = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
        else:
            parts = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(n, c // (b * b), h * b, w * b)

    return run


@operator("SpaceToDepth")
def space_to_depth(site: Site) -> Unary:
    """Blocks of the plane moved into channels."""
    b, columns_first = site.int("blocksize", 1), site.string("mode", "DCR") == "CRD"

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        parts = x.reshape(n, c, h // b, b, w // b, b)
        parts = parts.permute(0, 1, 3, 5, 2, 4) if columns_first else parts.permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(n, c * b * b, h // b, w // b)

    return run


@operator("Pad")
def pad(site: Site) -> Function:
    """Elements put around a value: constant, mirrored, the edge, or wrapped around; negative: cut away."""
    mode = site.string("mode", "constant")
    is_new = site.version >= 11
    pads = site.listed(1 if is_new else 9, "pads" if site.version >= 2 else "paddings")
    fill = site.number(2 if is_new else 9, "value", 0.0)
    axes = site.listed(3) if site.version >= 18 else site.listed(9)

    def run(x: Tensor, given: Tensor | None = None, value: Tensor | None = None, along: Tensor | None = None) -> Tensor:
        amounts, chosen = pads(given) or [], axes(along)
        half = len(amounts) // 2
        chosen = list(range(half)) if chosen is None else chosen
        both = {a % x.ndim: (amounts[i], amounts[half + i]) for i, a in enumerate(chosen)}
        if mode == "constant":
            flat = [n for axis in reversed(range(x.ndim)) for n in both.get(axis, (0, 0))]
            if x.dtype == torch.bool:
                return F.pad(x.to(torch.uint8), flat, "constant", fill(value) or 0).bool()
            return F.pad(x, flat, "constant", fill(value) or 0)
        for axis, (before, after) in both.items():
            if before or after:
                x = x.index_select(axis, _around(x.shape[axis], before, after, mode).to(x.device))
        return x

    return run


def _around(size: int, before: int, after: int, mode: str) -> Tensor:
    """The indices that a padded axis takes its elements from."""
    index = torch.arange(-before, size + after)
    match mode:
        case "edge":
            return index.clamp(0, size - 1)
        case "wrap":
            return index % size
        case _:
            period = max(1, 2 * (size - 1))
            index = index % period
            return torch.where(index >= size, period - index, index)


@operator("ReverseSequence")
def reverse_sequence(site: Site) -> Function:
    """The first elements along the time axis reversed, as many as each sequence is long."""
    time_axis, batch_axis = site.int("time_axis", 0), site.int("batch_axis", 1)

    def run(x: Tensor, lengths: Tensor) -> Tensor:
        moved = x.movedim((time_axis, batch_axis), (0, 1))
        steps = torch.arange(moved.shape[0], device=x.device)[:, None]
        index = torch.where(steps < lengths, lengths - 1 - steps, steps)
        found = moved[index, torch.arange(moved.shape[1], device=x.device)[None, :]]
        return found.movedim((0, 1), (time_axis, batch_axis))

    return run


@operator("Trilu")
def trilu(site: Site) -> Function:
    """The upper or lower triangle of each matrix."""
    cut: Callable[..., Tensor] = torch.triu if site.int("upper", 1) else torch.tril
    diagonal = site.listed(1)

    def run(x: Tensor, k: Tensor | None = None) -> Tensor:
        return cut(x, (diagonal(k) or [0])[0])

    return run


@operator("CenterCropPad")
def center_crop_pad(site: Site) -> Function:
    """The middle of a value, or the value in the middle of zeros."""
    axes = site.ints("axes")
    shape = site.listed(1)

    def run(x: Tensor, target: Tensor | None = None) -> Tensor:
        wanted = shape(target) or []
        for axis, size in zip(range(x.ndim) if axes is None else axes, wanted, strict=True):
            axis %= x.ndim
            extra = size - x.shape[axis]
            if extra < 0:
                x = x.narrow(axis, -extra // 2, size)
            elif extra > 0:
                amounts = [0, 0] * (x.ndim - 1 - axis) + [extra // 2, extra - extra // 2]
                x = F.pad(x, amounts)
        return x

    return run
