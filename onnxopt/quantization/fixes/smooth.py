"""SmoothQuant: moves what makes activations hard to quantize into the weights that read them.

Source: Xiao et al. 2023, https://arxiv.org/abs/2211.10438, equation 4: ``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``.
Alpha is searched for each region by the noise that rounding activations (a grid for the tensor) and weights (a grid for
each output channel) would put on the outputs of the layers that read it: a step ``d`` has the noise ``d^2 / 12``.
Regions are those of ``regions``: behind a norm, but also behind a Conv, as in cross-layer equalization with data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError
from onnxopt.passes.base import Context, PassResult
from onnxopt.quantization.fixes.regions import NORMS, Region, find_regions
from onnxopt.quantization.fixes.rescale import SCALES, matrix, rescale
from onnxopt.quantization.scheme import CPU_X86, QuantScheme
from onnxopt.run.tap import tap

__all__ = ["Channels", "Smooth", "best_scale", "change_each", "expected_noise", "smoothed_regions", "views"]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WORTH = 0.9
"""The expected noise must fall to this share of what it was for a region to be scaled."""
NOT_FINITE = "it has NaN or infinite values on the calibration data"


@dataclass(frozen=True)
class Smooth:
    """Scales channels by what the calibration data show; outputs stay equal up to rounding."""

    name: ClassVar[str] = "smooth"
    lossy: ClassVar[bool] = False

    scheme: QuantScheme = CPU_X86

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Scales the regions of the main graph that gain; each counts as one change.

        Raises:
            DataError: There are no data to observe.
        """
        regions, notes = smoothed_regions(model)
        result = change_each(self.name, regions, self._scale, model, ctx)
        return replace(result, notes=(*notes, *result.notes))

    def _scale(self, editor: Editor, region: Region, seen: list[Channels]) -> str | None:
        scale, share = best_scale(views(region), seen, self.scheme)
        if share > WORTH:
            return f"no scale lowers its expected noise below {share:.0%}"
        rescale(editor, region, scale)
        return None


@dataclass(frozen=True, eq=False)
class Channels:
    """Statistics of the channels that a node reads, each (channels,) float64."""

    low: Array
    high: Array
    energy: Array

    def update(self, array: Array, channels: int, *, is_first: bool) -> Channels:
        """With the values of an array added, whose channels are on axis 1 (``is_first``) or on the last one."""
        if not array.size:
            return self
        if is_first or array.shape[-1] != channels:
            rows = array.reshape(array.shape[0] if is_first else array.size // array.shape[-1], channels, -1)
            low, high = rows.min(axis=2).min(axis=0), rows.max(axis=2).max(axis=0)
            energy = np.einsum("ncp,ncp->c", rows, rows, dtype=np.float64) / (rows.shape[0] * rows.shape[2])
        else:
            rows = array.reshape(-1, channels)
            low, high = rows.min(axis=0), rows.max(axis=0)
            energy = np.einsum("nc,nc->c", rows, rows, dtype=np.float64) / rows.shape[0]
        return Channels(np.minimum(self.low, low), np.maximum(self.high, high), self.energy + energy)

    def without(self, channels: Array) -> Channels:
        """As if the channels of these indices were always 0."""
        kept = np.ones(self.low.shape)
        kept[channels] = 0.0
        return Channels(self.low * kept, self.high * kept, self.energy * kept)


def smoothed_regions(model: Model) -> tuple[list[Region], list[Note]]:
    """The regions that can be scaled, and why others cannot.

    Where the output of a norm is also read by something else (the residual of a post-norm block), that reads it times
    the scale: one small Mul.
    """
    whole = find_regions(model)
    taken = [r for r in whole if r.why_not() is None]
    written = {v for r in taken for v in r.values}
    notes = list[Note]()
    for region in find_regions(model, through_adds=False):
        if not region.readers or written.intersection(region.values):
            continue
        reason = region.why_not()
        if region.reason is None and all(n.op_type in NORMS or n.op_type == "Mul" for n in region.writers):
            taken.append(region)
        elif reason is not None:
            notes.append(Note(region.name, "kept", reason))
    return taken, notes


Change: TypeAlias = Callable[[Editor, Region, "list[Channels]"], "str | None"]
"""Changes a region by what its readers read; or says why it is kept."""


def change_each(name: str, regions: list[Region], change: Change, model: Model, ctx: Context) -> PassResult:
    """Observes the regions of ``model`` on the data and changes those that are finite and gain.

    Raises:
        DataError: There are no data to observe.
    """
    if ctx.data is None:
        raise DataError(f"{name} needs data to observe", where=name, fix="give --data")
    channels = _observe(model, regions, ctx.data, ctx)
    editor, notes = Editor(model), list[Note]()
    for region in regions:
        seen = [channels[node] for node in region.readers]
        is_finite = all(np.isfinite(c.energy).all() for c in seen)
        reason = change(editor, region, seen) if is_finite else NOT_FINITE
        if reason is not None:
            notes.append(Note(region.name, "kept", reason))
    return PassResult(model, len(regions) - len(notes), tuple(notes))


def _observe(model: Model, regions: list[Region], data: Dataset, ctx: Context) -> dict[ir.Node, Channels]:
    """One streaming pass over the data: the statistics of what each reader reads."""
    wanted: dict[str, list[tuple[ir.Node, int]]] = {}
    found: dict[ir.Node, Channels] = {}
    for region in regions:
        for node in region.readers:
            data_input = node.inputs[0]
            if data_input is not None:
                wanted.setdefault(data_input.name or "", []).append((node, region.channels))
                none = np.full(region.channels, np.inf)
                found[node] = Channels(none, -none, np.zeros(region.channels))
    with ctx.progress.task("observing channels", len(data)) as advance:
        for values in tap(model, list(wanted), lambda: (s.feeds for s in data), ctx.target, ctx.workdir):
            _add(values, wanted, found)
            advance(1)
    return found


def _add(
    values: Mapping[str, Array], wanted: Mapping[str, list[tuple[ir.Node, int]]], found: dict[ir.Node, Channels]
) -> None:
    for name, array in values.items():
        readers = wanted[name]
        node, channels = readers[0]
        updated = found[node].update(array, channels, is_first=node.op_type == "Conv")
        found.update(dict.fromkeys((reader for reader, _ in readers), updated))


def views(region: Region) -> list[Array]:
    """The weights of each reader, (groups, outputs, channels, positions): behind a Flatten a channel has several."""
    return [_folded(matrix(node), region.channels) for node in region.readers]


def best_scale(weights: list[Array], seen: list[Channels], scheme: QuantScheme) -> tuple[Array, float]:
    """The scales with the least expected noise, and that noise as a share of what it is without scales."""
    size = np.max([np.maximum(-c.low, c.high) for c in seen], axis=0)
    reads = np.max([np.abs(w).max(axis=(1, 3), initial=0).reshape(-1) for w in weights], axis=0)
    used = (size > 0) & (reads > 0)
    plain = np.ones(len(size))
    noise = expected_noise(weights, seen, scheme)
    found = [(noise(plain), plain)]
    for alpha in ALPHAS:
        logs = alpha * np.log(np.where(used, size, 1)) - (1 - alpha) * np.log(np.where(used, reads, 1))
        scale = np.where(used, np.exp(logs - logs[used].mean()), 1.0) if used.any() else plain
        scale = np.clip(scale, *SCALES)
        found.append((noise(scale), scale))
    least, scale = min(found, key=lambda item: item[0])
    return scale, least / found[0][0] if found[0][0] > 0 else 1.0


def expected_noise(
    weights: list[Array], seen: list[Channels], scheme: QuantScheme, *, left: list[Channels] | None = None
) -> Callable[[Array], float]:
    """Noise over signal that rounding puts on what the readers give, summed over them, by the scales (channels,).

    Args:
        weights: Those of each reader, as ``views`` gives them; the scales are moved into them.
        seen: What each reader reads.
        scheme: The grids.
        left: What of it is rounded; default: all.
    """
    signals = [_signal(view, c) for view, c in zip(weights, seen, strict=True)]

    def noise(scale: Array) -> float:
        noises = [_noise(view, c, scale, scheme) for view, c in zip(weights, left or seen, strict=True)]
        return sum(noise / signal for noise, signal in zip(noises, signals, strict=True) if signal > 0)

    return noise


def _folded(view: Array, channels: int) -> Array:
    """``view`` with the entries of one channel behind a Flatten as positions."""
    groups, outputs, inputs, positions = view.shape
    return view.reshape(groups, outputs, channels // groups, positions * (inputs * groups // channels))


def _noise(view: Array, seen: Channels, scale: Array, scheme: QuantScheme) -> float:
    """Expected squared noise at the outputs of one reader."""
    groups = view.shape[0]
    scaled = view * scale.reshape(groups, 1, -1, 1)
    energy = (seen.energy / scale**2).reshape(groups, 1, -1, 1)
    low, high = min((seen.low / scale).min(), 0.0), max((seen.high / scale).max(), 0.0)
    step = (high - low) / (scheme.activations.high - scheme.activations.low)
    steps = np.abs(scaled).max(axis=(2, 3), initial=0) / scheme.weights.high
    by_output = (energy.sum(axis=(2, 3)) * view.shape[3] * steps**2).sum()
    return float(step**2 * (scaled**2).sum() + by_output) / 12


def _signal(view: Array, seen: Channels) -> float:
    """Expected square of the outputs of one reader, its inputs taken as independent of each other."""
    return float((view**2 * seen.energy.reshape(view.shape[0], 1, -1, 1)).sum())
