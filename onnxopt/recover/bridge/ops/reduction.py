"""Reductions over axes, sums along an axis, and the normalised exponentials."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onnxopt.recover.bridge.site import Function, Site, Unary, operator
from onnxopt.recover.bridge.types import norm

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _extreme(x: Tensor, axes: list[int], keep: bool, largest: bool) -> Tensor:
    kind = x.dtype
    x = x.to(torch.uint8) if kind == torch.bool else x
    if not x.numel():
        low, high = (-torch.inf, torch.inf) if x.is_floating_point() else _ends(x.dtype)
        kept = [(1 if keep else None) if i in {a % x.ndim for a in axes} else n for i, n in enumerate(x.shape)]
        return torch.full([n for n in kept if n is not None], low if largest else high, dtype=x.dtype).to(kind)
    found = torch.amax(x, axes, keepdim=keep) if largest else torch.amin(x, axes, keepdim=keep)
    return found.to(kind)


def _ends(kind: torch.dtype) -> tuple[int, int]:
    found = torch.iinfo(kind)
    return found.min, found.max


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=keep)
    count = x.numel() // max(1, torch.sum(x, axes).numel())
    return torch.div(torch.sum(x, axes, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


def _length(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return norm(x, 2.0, axes, keep=keep)
    return torch.sqrt(_sum(x * x, axes, keep).double()).to(x.dtype)


REDUCTIONS: dict[str, Reduce] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceProd": lambda x, a, k: _prod(x, a, k).to(x.dtype),
    "ReduceMax": lambda x, a, k: _extreme(x, a, k, True),
    "ReduceMin": lambda x, a, k: _extreme(x, a, k, False),
    "ReduceL1": lambda x, a, k: _sum(torch.abs(x), a, k),
    "ReduceL2": _length,
    "ReduceSumSquare": lambda x, a, k: _sum(x * x, a, k),
    "ReduceLogSum": lambda x, a, k: torch.log(_sum(x, a, k)),
    "ReduceLogSumExp": lambda x, a, k: torch.logsumexp(x, a, k),
}


@operator(*REDUCTIONS)
def reduce_(site: Site) -> Function:
    """A reduction over the axes that an attribute or an input names; none named: over all, or over none."""
    function, keep = REDUCTIONS[site.node.op_type], bool(site.int("keepdims", 1))
    nothing = bool(site.int("noop_with_empty_axes", 0))
    axes = site.listed(1, "axes")

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        chosen = axes(given)
        if not chosen:
            if nothing:
                return x if site.node.op_type in ("ReduceSum", "ReduceMean") else function(x[None], [0], False)
            chosen = list(range(x.ndim))
        if not chosen:  # a scalar
            return function(x.reshape(1), [0], False)
        return function(x, chosen, keep)

    return run


@operator("CumSum", "CumProd")
def cumulate(site: Site) -> Function:
    """Running sums or products, without the element itself if ``exclusive``, from the end if ``reverse``."""
    exclusive, backwards = site.int("exclusive", 0), site.int("reverse", 0)
    is_sum = site.node.op_type == "CumSum"
    axes = site.listed(1)

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axis = (axes(given) or [0])[0] % x.ndim
        if backwards:
            x = x.flip(axis)
        if exclusive:
            first = torch.zeros_like(x.narrow(axis, 0, 1)) if is_sum else torch.ones_like(x.narrow(axis, 0, 1))
            x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        found = torch.cumsum(x, axis, dtype=x.dtype) if is_sum else torch.cumprod(x, axis, dtype=x.dtype)
        return found.flip(axis) if backwards else found

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    return torch.zeros_like(x).scatter(axis, torch.argmax(x, axis, keepdim=True), 1)


EXPONENTIALS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "Softmax": torch.softmax,
    "LogSoftmax": torch.log_softmax,
    "Hardmax": _hardmax,
}


@operator(*EXPONENTIALS, since=13)
def softmax(site: Site) -> Unary:
    """The normalised exponential along an axis, its logarithm, or the largest marked."""
    function, axis = EXPONENTIALS[site.node.op_type], site.int("axis", -1)
    return lambda x: function(x, axis)


@operator(*EXPONENTIALS, since=1)
def softmax_flat(site: Site) -> Unary:
    """The same over all axes from ``axis`` on together, as it was before opset 13."""
    function, axis = EXPONENTIALS[site.node.op_type], site.int("axis", 1)

    def run(x: Tensor) -> Tensor:
        cut = axis if axis >= 0 else x.ndim + axis
        return function(x.reshape(x.shape[:cut].numel(), x.shape[cut:].numel()), 1).reshape(x.shape)

    return run
