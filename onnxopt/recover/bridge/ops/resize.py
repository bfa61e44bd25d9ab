"""Resize and Upsample: axis by axis, as a choice of elements or as a product with a matrix of weights.

The matrix covers all modes of the specification (antialiasing, cubic, excluded edges, regions), computed in float64 as
the reference of ONNX does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from onnxopt.core.tensors import Array
from onnxopt.recover.bridge.site import Function, Site, operator
from onnxopt.recover.bridge.types import floats, integers, tensor_from

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Rule:
    """How the elements of one axis follow from those of the input.

    Attributes:
        mode: ``nearest``, ``linear`` or ``cubic``.
        coordinates: ``coordinate_transformation_mode``.
        rounding: ``nearest_mode``.
        a: Coefficient of the cubic.
        exclude: Weights outside the input are dropped and the rest scaled up.
        antialias: The kernel is stretched when the axis shrinks.
        fill: Value outside the region, for ``tf_crop_and_resize``.
    """

    mode: str
    coordinates: str
    rounding: str
    a: float
    exclude: bool
    antialias: bool
    fill: float


@operator("Resize", since=10)
def resize(site: Site) -> Function:
    """The axes scaled by factors or to sizes."""
    if site.version < 11:
        rule = Rule(site.string("mode", "nearest"), "asymmetric", "floor", -0.75, False, False, 0.0)

        def run_old(x: Tensor, given: Tensor) -> Tensor:
            return _resized(x, rule, floats(given), None, None)

        return run_old
    coordinates = site.string("coordinate_transformation_mode", "half_pixel")
    rule = Rule(
        site.string("mode", "nearest"),
        coordinates,
        site.string("nearest_mode", "round_prefer_floor"),
        site.float("cubic_coeff_a", -0.75),
        bool(site.int("exclude_outside", 0)),
        bool(site.int("antialias", 0)),
        site.float("extrapolation_value", 0.0),
    )
    axes, policy = site.ints("axes"), site.string("keep_aspect_ratio_policy", "stretch")

    def run(x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        factors = None if scales is None or not scales.numel() else floats(scales)
        wanted = None if sizes is None or not sizes.numel() else integers(sizes)
        region = None if roi is None or not roi.numel() else floats(roi)
        chosen = [a % x.ndim for a in axes] if axes is not None else None
        if chosen is not None:
            factors = None if factors is None else _full(factors, chosen, [1.0] * x.ndim)
            if wanted is not None and policy == "stretch":
                wanted = _full(wanted, chosen, list(x.shape))
            if region is not None:
                half = len(region) // 2
                zeros, ones = [0.0] * x.ndim, [1.0] * x.ndim
                region = _full(region[:half], chosen, zeros) + _full(region[half:], chosen, ones)
        if wanted is not None and policy != "stretch":
            return _resized(x, rule, None, _with_aspect(x, wanted, chosen, policy), region)
        return _resized(x, rule, factors, wanted, region)

    return run


@operator("Upsample", since=9)
@operator("Upsample", since=7)
def upsample(site: Site) -> Function:
    """The axes scaled by factors, as Resize with ``asymmetric`` and ``floor``."""
    rule = Rule(site.string("mode", "nearest"), "asymmetric", "floor", -0.75, False, False, 0.0)
    attribute = site.attribute("scales")
    known = None if attribute is None else list(attribute.as_floats())

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        return _resized(x, rule, known if given is None else floats(given), None, None)

    return run


def _full(values: list[N], axes: list[int], default: list[N]) -> list[N]:
    found = list(default)
    for axis, value in zip(axes, values, strict=True):
        found[axis] = value
    return found


def _with_aspect(x: Tensor, sizes: list[int], axes: list[int] | None, policy: str) -> list[int]:
    chosen = list(range(x.ndim)) if axes is None else axes
    ratios = [size / x.shape[axis] for axis, size in zip(chosen, sizes, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    found = list(x.shape)
    for axis in chosen:
        found[axis] = math.floor(scale * x.shape[axis] + 0.5)
    return found


def _resized(
    x: Tensor,
    rule: Rule,
    scales: list[float] | None,
    sizes: list[int] | None,
    region: list[float] | None,
) -> Tensor:
    kind = x.dtype
    cropped = rule.coordinates == "tf_crop_and_resize"
    for axis in range(x.ndim):
        length = x.shape[axis]
        begin, end = (region[axis], region[x.ndim + axis]) if cropped and region is not None else (0.0, 1.0)
        if scales is not None:
            scale = scales[axis]
            size = math.floor(length * (end - begin) * scale)
        elif sizes is not None:
            size = sizes[axis]
            scale = size / length if not cropped else size / (length * (end - begin))
        else:
            return x
        if scale == 1 and size == length and (not cropped or (begin, end) == (0.0, 1.0)):
            continue
        if rule.mode == "nearest" and not cropped:
            x = x.index_select(axis, tensor_from(_nearest(length, size, scale, rule)).to(x.device))
            continue
        weights = tensor_from(_matrix(length, size, scale, begin, end, rule)).to(x.device)
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        x = torch.matmul(wide.movedim(axis, -1), weights.to(wide.dtype).t())
        if cropped:
            outside = tensor_from(_outside(length, size, scale, begin, end)).to(x.device)
            x = torch.where(outside, torch.full((), rule.fill, dtype=x.dtype, device=x.device), x)
        x = x.movedim(-1, axis)
    if x.dtype == kind:
        return x
    return (torch.round(x) if not kind.is_floating_point else x).to(kind)


def _origin(length: int, size: int, scale: float, begin: float, end: float, coordinates: str) -> Array:
    """Where in the input each element of the output lies."""
    out = np.arange(size, dtype=np.float64)
    match coordinates:
        case "align_corners":
            return out * (length - 1) / (length * scale - 1) if length * scale != 1 else out * 0
        case "asymmetric":
            return out / scale
        case "pytorch_half_pixel":
            return (out + 0.5) / scale - 0.5 if length * scale > 1 else out * 0 - 0.5
        case "half_pixel_symmetric":
            adjustment = size / (scale * length)
            return length / 2 * (1 - adjustment) + (out + 0.5) / scale - 0.5
        case "tf_crop_and_resize":
            if size > 1:
                return begin * (length - 1) + out * (end - begin) * (length - 1) / (size - 1)
            return out * 0 + 0.5 * (begin + end) * (length - 1)
        case "tf_half_pixel_for_nn":
            return (out + 0.5) / scale
        case _:
            return (out + 0.5) / scale - 0.5


def _outside(length: int, size: int, scale: float, begin: float, end: float) -> Array:
    place = _origin(length, size, scale, begin, end, "tf_crop_and_resize")
    return (place < 0) | (place > length - 1)


@lru_cache(maxsize=64)
def _nearest(length: int, size: int, scale: float, rule: Rule) -> Array:
    return _rounded(_origin(length, size, scale, 0.0, 1.0, rule.coordinates), rule).clip(0, length - 1)


def _rounded(place: Array, rule: Rule) -> Array:
    match rule.rounding:
        case "round_prefer_ceil":
            found = np.floor(place + 0.5)
        case "floor":
            found = np.floor(place)
        case "ceil":
            found = np.ceil(place)
        case _:
            found = np.ceil(place - 0.5)
    return found.astype(np.int64)


@lru_cache(maxsize=64)
def _matrix(length: int, size: int, scale: float, begin: float, end: float, rule: Rule) -> Array:
    """Weights (size, length): each output is a weighted sum of inputs, those outside taken from the edge."""
    place = _origin(length, size, scale, begin, end, rule.coordinates)
    found = np.zeros((size, length))
    if rule.mode == "nearest":
        found[np.arange(size), _rounded(place, rule).clip(0, length - 1)] = 1
        return found
    stretch = min(scale, 1.0) if rule.antialias else 1.0
    reach = (1 if rule.mode == "linear" else 2) / stretch
    for row, x in enumerate(place):
        first = math.floor(x - reach) + 1 if rule.antialias else math.floor(x) - (0 if rule.mode == "linear" else 1)
        last = math.ceil(x + reach) - 1 if rule.antialias else math.floor(x) + (1 if rule.mode == "linear" else 2)
        taps = _between(first, last)
        weights = _kernel(np.abs(taps - x) * stretch, rule)
        if rule.exclude or rule.antialias:
            if rule.exclude:
                weights = np.where((taps >= 0) & (taps < length), weights, 0)
            weights = weights / weights.sum()
        np.add.at(found[row], taps.clip(0, length - 1), weights)
    return found


def _between(first: int, last: int) -> Array:
    return np.arange(first, last + 1)


def _kernel(distance: Array, rule: Rule) -> Array:
    if rule.mode == "linear":
        return np.maximum(0, 1 - distance)
    a, d = rule.a, distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
