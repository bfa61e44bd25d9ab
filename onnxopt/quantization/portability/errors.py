"""How much a coarser grid of its weights moves the output of a layer, against what 8 bits move it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, graph_of
from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model, constant
from onnxopt.core.tensors import Array, read
from onnxopt.passes.base import Context
from onnxopt.quantization.affine import dequantize_array, quantize_array, weight_scale
from onnxopt.quantization.portability.weights import narrow_scale
from onnxopt.quantization.scheme import Grid, PerAxis
from onnxopt.quantization.select import weight_axis
from onnxopt.run.session import Feeds, open_session

__all__ = ["FormError", "form_errors"]


@dataclass(frozen=True)
class FormError:
    """Output of a layer against that of its float weights, in dB.

    Attributes:
        exact_db: With weights on the full 8-bit grid.
        narrow_db: With weights no pair of which saturates.
    """

    exact_db: float
    narrow_db: float


def form_errors(
    model: Model, layers: Mapping[str, ir.Node], grid: Grid, feeds: Sequence[Feeds], ctx: Context
) -> dict[str, FormError]:
    """The error of each form of some weights, measured at what their layers make of ``feeds``.

    Args:
        model: The float model; it is not changed.
        layers: Name of a weight -> a node of the main graph of ``model`` that multiplies by it.
        grid: The grid of the weights.
        feeds: Inputs of the model.
        ctx: Target and folder.
    """
    twins = dict(zip(model.graph, (copy := model.clone()).graph, strict=True))
    editor = Editor(copy)
    names: dict[str, list[str]] = {}
    for name, node in layers.items():
        tensor = constant(node.inputs[1])
        if tensor is None or node not in twins:
            continue
        outputs = [_energy(editor, twins[node], weight) for weight in _forms(read(tensor), weight_axis(node), grid)]
        copy.graph.outputs.extend(outputs)
        names[name] = [value.name or "" for value in outputs]
    if not names:
        return {}
    path = ctx.workdir / "form-errors.onnx"
    save_scratch(copy, path)
    session = open_session(path, ctx.target)
    sums = {name: np.zeros(3) for name in names}
    for sample in feeds:
        found = session.run(sample, [value for group in names.values() for value in group])
        for name, group in names.items():
            sums[name] += [float(found[value]) for value in group]
    return {name: FormError(_db(s[0], s[1]), _db(s[0], s[2])) for name, s in sums.items()}


def _forms(weight: Array, axis: int, grid: Grid) -> tuple[Array, Array, Array]:
    """The weight, and what 8 bits and what a narrow grid change in it."""
    scale = np.maximum(weight_scale(weight, PerAxis(axis), grid), np.finfo(np.float32).tiny)

    def change(scale: Array) -> Array:
        codes = quantize_array(weight, scale, 0, PerAxis(axis), grid)
        return dequantize_array(codes, scale, 0, PerAxis(axis)) - weight

    return weight, change(scale), change(narrow_scale(weight, axis, scale))


def _energy(editor: Editor, node: ir.Node, weight: Array) -> ir.Value:
    """The sum of the squares of what ``node`` makes with ``weight`` and no bias; a scalar."""
    base = f"{node.outputs[0].name}_energy"
    twin = ir.node(
        node.op_type,
        [node.inputs[0], editor.add_constant(f"{base}_weight", weight, before=node)],
        dict(node.attributes),
    )
    total = ir.node("ReduceSumSquare", [twin.outputs[0]], {"keepdims": 0})
    for item in (twin, total):
        item.name = editor.fresh_name(f"{base}_{item.op_type}")
        item.outputs[0].name = editor.fresh_name(f"{base}_{item.op_type}_output")
    graph_of(node).insert_after(node, [twin, total])
    value = total.outputs[0]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    return value


def _db(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.inf
