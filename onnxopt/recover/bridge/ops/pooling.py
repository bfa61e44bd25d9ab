"""Pooling over windows and over the whole plane, in one to three dimensions of space.

A window may hang over the end where sizes are rounded up; what hangs over counts for nothing, and a window that would
begin behind the padded input is left out (ONNX Runtime and the reference of ONNX do so).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxopt.recover.bridge.ops.convolution import CONVOLUTIONS, flat_pads, same_pads
from onnxopt.recover.bridge.site import Function, Site, Unary, operator
from onnxopt.recover.bridge.types import norm

MAX_POOLS: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}
PLAIN_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
PLAIN_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Window:
    """How a pooling operator walks over the plane.

    Attributes:
        kernel: Its sizes.
        strides: Its steps.
        dilations: Distances of its elements.
        pads: Begins, then ends; empty: none, or as ``auto`` says.
        auto: ``auto_pad``.
        ceil: Whether sizes are rounded up.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    auto: str
    ceil: bool

    def around(self, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """The pads for an input of these sizes (begins, then ends), and what hangs over the end of each axis."""
        extent = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        rank = len(sizes)
        pads = self.pads or [0] * (2 * rank)
        if self.auto in ("SAME_UPPER", "SAME_LOWER"):
            pads = same_pads(self.auto, sizes, extent, self.strides)
        elif self.auto == "VALID":
            pads = [0] * (2 * rank)
        over: list[int] = []
        for axis, size in enumerate(sizes):
            room = size + pads[axis] + pads[rank + axis]
            step = self.strides[axis]
            count = -(-(room - extent[axis]) // step) + 1 if self.ceil else (room - extent[axis]) // step + 1
            if self.ceil and (count - 1) * step >= size + pads[axis]:
                count -= 1
            over.append(max(0, (count - 1) * step + extent[axis] - room))
        return pads, over

    def is_plain(self, pads: Sequence[int], over: Sequence[int]) -> bool:
        """Whether torch's own pooling has such pads."""
        rank = len(over)
        fits = all(2 * p <= k for p, k in zip(pads[:rank], self.kernel, strict=True))
        return fits and not any(over) and list(pads[:rank]) == list(pads[rank:])


def window(site: Site) -> Window:
    """The attributes of a pooling node.

    Raises:
        ModelError: The space has more than three dimensions.
    """
    kernel = site.ints("kernel_shape") or []
    rank = len(kernel)
    if rank not in CONVOLUTIONS:
        raise site.refuse(f"pooling in {rank} dimensions of space")
    one = [1] * rank
    return Window(
        kernel,
        site.ints("strides") or one,
        site.ints("dilations") or one,
        site.ints("pads") or [],
        site.string("auto_pad", "NOTSET"),
        bool(site.int("ceil_mode", 0)),
    )


@operator("MaxPool")
def max_pool(site: Site) -> Function:
    """The largest of each window, and where it was."""
    w, by_column = window(site), bool(site.int("storage_order", 0))
    rank, wants_places = len(w.kernel), site.is_wanted(1)

    def run(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        sizes = x.shape[2:]
        pads, over = w.around(sizes)
        if x.is_floating_point() and not wants_places and w.is_plain(pads, over):
            return PLAIN_MAX[rank](x, w.kernel, w.strides, pads[:rank], w.dilations)
        ends = [e + o for e, o in zip(pads[rank:], over, strict=True)]
        wide = x if x.is_floating_point() else x.to(torch.float64)
        padded = F.pad(wide, flat_pads([*pads[:rank], *ends]), value=-torch.inf)
        found, places = MAX_POOLS[rank](padded, w.kernel, w.strides, 0, w.dilations)
        found = found.to(x.dtype)
        if not wants_places:
            return found
        index = _unpadded(places, padded.shape[2:], pads[:rank], sizes, by_column=by_column)
        planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(*x.shape[:2], *[1] * rank)
        return found, index + planes * sizes.numel()

    return run


def _unpadded(
    places: Tensor, padded: Sequence[int], begins: Sequence[int], sizes: Sequence[int], *, by_column: bool
) -> Tensor:
    """Flat places in a padded plane as flat places in the plane."""
    coordinates: list[Tensor] = []
    for size, begin in zip(reversed(padded), reversed(begins), strict=True):
        coordinates.append(places % size - begin)
        places = torch.div(places, size, rounding_mode="floor")
    order = list(zip(coordinates, reversed(sizes), strict=True))
    total, stride = torch.zeros_like(places), 1
    for coordinate, size in reversed(order) if by_column else order:
        total = total + coordinate * stride
        stride *= size
    return total


@operator("MaxUnpool")
def max_unpool(site: Site) -> Function:
    """Values put back where they were the largest, zeros elsewhere."""
    w, shape = window(site), site.listed(2)

    def run(x: Tensor, places: Tensor, given: Tensor | None = None) -> Tensor:
        rank = len(w.kernel)
        pads = w.pads or [0] * (2 * rank)
        natural = [(n - 1) * w.strides[i] + w.kernel[i] - pads[i] - pads[rank + i] for i, n in enumerate(x.shape[2:])]
        wanted = shape(given) or [*x.shape[:2], *natural]
        plane = torch.Size(natural)
        if list(wanted[2:]) != natural:  # the places count in the natural plane
            coordinates: list[Tensor] = []
            left = places % plane.numel()
            for size in reversed(natural):
                coordinates.append(left % size)
                left = torch.div(left, size, rounding_mode="floor")
            places = torch.div(places, plane.numel(), rounding_mode="floor") * torch.Size(wanted[2:]).numel()
            stride = 1
            for coordinate, size in zip(coordinates, reversed(wanted[2:]), strict=True):
                places = places + coordinate * stride
                stride *= size
        flat = torch.zeros(torch.Size(wanted).numel(), dtype=x.dtype, device=x.device)
        return flat.index_put((places.reshape(-1),), x.reshape(-1)).reshape(wanted)

    return run


@operator("AveragePool")
def average_pool(site: Site) -> Unary:
    """The mean of each window, with what the pads add counted or not."""
    w, with_pads = window(site), bool(site.int("count_include_pad", 0))
    rank = len(w.kernel)

    def run(x: Tensor) -> Tensor:
        pads, over = w.around(x.shape[2:])
        if w.is_plain(pads, over) and w.dilations == [1] * rank:
            return PLAIN_AVERAGE[rank](x, w.kernel, w.strides, pads[:rank], False, with_pads)
        counted = torch.ones_like(x[:1, :1])
        counted = F.pad(counted, flat_pads(pads), value=float(with_pads))
        return _sums(x, w, pads, over) / _sums(counted, w, [0] * (2 * rank), over)

    return run


@operator("LpPool")
def lp_pool(site: Site) -> Unary:
    """The p-norm of each window."""
    w, p = window(site), float(site.int("p", 2))

    def run(x: Tensor) -> Tensor:
        pads, over = w.around(x.shape[2:])
        return _sums(torch.abs(x) ** p, w, pads, over) ** (1 / p)

    return run


def _sums(x: Tensor, w: Window, pads: Sequence[int], over: Sequence[int]) -> Tensor:
    """The sum of each window of each channel."""
    rank = len(w.kernel)
    ends = [e + o for e, o in zip(pads[rank:], over, strict=True)]
    padded = F.pad(x, flat_pads([*pads[:rank], *ends]))
    ones = torch.ones(1, 1, *w.kernel, dtype=x.dtype, device=x.device)
    planes = padded.reshape(-1, 1, *padded.shape[2:])
    found = CONVOLUTIONS[rank](planes, ones, None, w.strides, 0, w.dilations)
    return found.reshape(*x.shape[:2], *found.shape[2:])


@operator("GlobalAveragePool")
def global_average(site: Site) -> Unary:
    """The mean of each plane."""
    del site
    return lambda x: x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max(site: Site) -> Unary:
    """The largest of each plane."""
    del site
    return lambda x: x.amax(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp(site: Site) -> Unary:
    """The p-norm of each plane."""
    p = float(site.int("p", 2))
    return lambda x: norm(x, p, list(range(2, x.ndim)), keep=True)
