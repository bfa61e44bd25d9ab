"""A model that computes, on any CPU, what another model computes on an x86 CPU without VNNI: bit for bit on integers.

Each integer layer with pairs at risk (``pairs``) becomes: the exact product (``ConvInteger``, or ``MatMulInteger`` on
U8 weights, which no CPU saturates), plus what saturation adds, which only the pairs at risk contribute to, then the
layer's own rescaling. Pairs at risk are few, so this costs little more than the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from onnxopt.core.edit import Editor
from onnxopt.core.io import load, save_scratch
from onnxopt.core.opset import raise_opset
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.quantization.portability.layers import Layer, find_layers
from onnxopt.quantization.portability.saturating import Rewriter
from onnxopt.run.optimized import write_optimized
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap
from onnxopt.run.target import Target

__all__ = ["Simulated", "simulate"]

OPSET = 13
"""The first opset in which the sums are written as below."""
POSITIONS = 4096
"""Output positions of a layer whose shape is not known."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """The model that stands in for another one on a CPU without VNNI.

    Attributes:
        path: Its file.
        layers: All layers of U8 with S8, at risk or not.
        figures_path: The same with more outputs, that tell what saturation does.
        figures: Names of these outputs: layer -> those of ``Figures``; without layers in nested graphs.
        notes: Layers that are not simulated, with the reason.
    """

    path: Path
    layers: tuple[Layer, ...]
    figures_path: Path
    figures: Mapping[Layer, tuple[str, ...]]
    notes: tuple[Note, ...]


def simulate(path: Path, feeds: Feeds, workdir: Path, *, name: str | None = None) -> Simulated:
    """The simulated form of the model at ``path``, in ``workdir``.

    Args:
        path: The model; it is not changed.
        feeds: One input, for the sizes of its values.
        workdir: Folder of the result.
        name: Stem of the files that are written; default: that of the model.

    Raises:
        ModelError: It cannot be loaded, or not be converted to an opset that can say this.
    """
    stem = f"{name or path.stem}-without-vnni"
    raised, optimized = workdir / f"{stem}-raised.onnx", workdir / f"{stem}-optimized.onnx"
    save_scratch(raise_opset(load(path), OPSET), raised)
    write_optimized(raised, optimized)
    model = load(optimized)
    layers, notes = find_layers(model)
    sizes = _positions(model, layers, feeds, workdir)
    count = len(model.graph.outputs)
    main = {layer for layer in layers if layer.node.graph is model.graph}
    rewriter = Rewriter(Editor(model))
    names: dict[Layer, tuple[str, ...]] = {}
    for layer in (layer for layer in layers if len(layer.pairs.first)):
        found = rewriter.replace(layer, sizes.get(layer.weight, POSITIONS), figures=layer in main)
        if found is not None:
            values = (found.saturated, found.sums, found.signal, found.noise)
            model.graph.outputs.extend(values)
            names[layer] = tuple(value.name or "" for value in values)
    result, figures = workdir / f"{stem}.onnx", workdir / f"{stem}-figures.onnx"
    save_scratch(model, figures)
    del model.graph.outputs[count:]  # ONNX Runtime drops what only led there
    save_scratch(model, result)
    return Simulated(result, layers, figures, names, notes)


def _positions(model: Model, layers: Sequence[Layer], feeds: Feeds, workdir: Path) -> dict[str, int]:
    """Name of a weight -> rows of the product that it takes part in, for one call; layers of the main graph."""
    named = {
        layer.node.outputs[0].name or "": layer
        for layer in layers
        if len(layer.pairs.first) and layer.node.graph is model.graph
    }
    found: dict[str, int] = {}
    for values in tap(model, list(named), lambda: [feeds], Target(), workdir):
        found |= {named[n].weight: prod(v.shape) // named[n].channels for n, v in values.items()}
    return found
