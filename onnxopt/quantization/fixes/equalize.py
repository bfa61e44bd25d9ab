"""Cross-layer equalization: evens out the ranges of the channels between two layers without changing the function.

Source: Nagel et al. 2019, Data-Free Quantization, https://arxiv.org/abs/1906.04721, section 4.1: with the ranges ``r1``
of what writes a channel and ``r2`` of what reads it, ``s = sqrt(r1 r2) / r2``; swept until nothing moves. A depthwise
Conv reads one region and writes the next, so that chains of three layers need no rule of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of
from onnxopt.quantization.fixes.regions import Region, find_regions
from onnxopt.quantization.fixes.rescale import SCALES, matrix, rescale
from onnxopt.quantization.select import COMPUTE

__all__ = ["Equalize"]

SETTLED = 0.01
"""Scales that change by less than this (natural log) no longer move."""


@dataclass(frozen=True)
class Equalize:
    """Scales the channels between layers by their weights alone; outputs stay equal up to rounding.

    Attributes:
        sweeps: How often each region is visited at most.
    """

    name: ClassVar[str] = "equalize"
    lossy: ClassVar[bool] = False

    sweeps: int = 10

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Scales the regions of the main graph; each counts as one change."""
        del ctx
        regions, notes = list[Region](), list[Note]()
        for region in find_regions(model):
            reason = region.why_not()
            if reason is None:
                regions.append(region)
            else:
                notes.append(Note(region.name, "kept", reason))
        scales = _scales(regions, self.sweeps)
        moved = [(r, s) for r, s in zip(regions, scales, strict=True) if np.abs(np.log(s)).max(initial=0) > SETTLED]
        editor = Editor(model)
        for region, scale in moved:
            rescale(editor, region, scale)
        return PassResult(model, len(moved), tuple(notes))


def _scales(regions: Sequence[Region], sweeps: int) -> list[Array]:
    """The scales of each region, (channels,) float64."""
    linear = dict.fromkeys(n for r in regions for n in (*r.writers, *r.readers) if n.op_type in COMPUTE)
    sizes = {node: np.abs(matrix(node)).max(axis=3, initial=0) for node in linear}
    totals = [np.ones(region.channels) for region in regions]
    for _ in range(sweeps):
        largest = 0.0
        for region, total in zip(regions, totals, strict=True):
            written = np.max([_written(node, sizes, total) for node in region.writers], axis=0)
            reads = np.max([_read(sizes[node], region.channels) for node in region.readers], axis=0)
            used = (written > 0) & (reads > 0)
            step = np.sqrt(np.where(used, written, 1) / np.where(used, reads, 1))
            step = np.clip(total * step, *SCALES) / total
            largest = max(largest, float(np.abs(np.log(step)).max(initial=0)))
            total *= step
            for node in region.writers:
                if node in sizes:
                    sizes[node] /= step.reshape(sizes[node].shape[0], -1, 1)
            for node in region.readers:
                wide = np.repeat(step, sizes[node].shape[0] * sizes[node].shape[2] // len(step))
                sizes[node] *= wide.reshape(sizes[node].shape[0], 1, -1)
        if largest < SETTLED:
            break
    return totals


def _written(node: ir.Node, sizes: dict[ir.Node, Array], total: Array) -> Array:
    """The largest weight that makes each channel, as scaled so far."""
    if node in sizes:
        return sizes[node].max(axis=2, initial=0).reshape(-1)
    index = 0 if node.op_type == "Mul" and array_of(node.inputs[0]) is not None else 1
    constant = array_of(node.inputs[index])
    if constant is None:
        raise ValueError(f"{node.name!r} has no constant")
    return np.abs(constant.astype(np.float64)).reshape(-1) / total


def _read(size: Array, channels: int) -> Array:
    """The largest weight that reads each channel; ``size`` (groups, outputs, inputs)."""
    return size.max(axis=1, initial=0).reshape(channels, -1).max(axis=1, initial=0)
