"""Bias correction: takes the mean error that rounding the weights puts on each output channel out of the bias.

Source: Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.2: ``b' = b + E[W x] - E[W_quantized x]``. Both
means are over what the layer reads in the quantized model, so that each layer answers for its own error only and one
pass serves all. (Taken against the outputs of the float model, errors inherited from earlier layers are corrected again
and again: measured, effnet falls from 20 dB to 4 dB, in 16 blocks to 1 dB.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of, remove_node
from onnxopt.core.query import Model, label, nodes, opset
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.passes.base import Context
from onnxopt.passes.constants import array_of, is_op, single_reader
from onnxopt.quantization.existing import dequantizer
from onnxopt.quantization.select import weight_axis
from onnxopt.run.tap import tap

__all__ = ["can_correct", "correct_bias"]

BIAS_LIMIT = 2**30
SAMPLES = 32
"""At most so many, evenly spaced: a mean over samples and positions needs no more."""
AXES_AS_INPUT = 18
"""From this opset on ReduceMean takes its axes as an input."""


def correct_bias(model: Model, weights: Mapping[ir.Node, Array], data: Dataset, ctx: Context) -> list[Note]:
    """Corrects the biases of layers with integer weights.

    Args:
        model: The quantized model; it is changed.
        weights: Conv, Gemm and MatMul nodes of ``model`` with integer weights, and the float weights they had.
        data: Samples to take the means over.
        ctx: Target and folder.

    Returns:
        Why some layers were not corrected.
    """
    slots: dict[ir.Node, _Slot] = {}
    notes: list[Note] = []
    for node in weights:
        slot = _slot(node)
        if slot is None:
            notes.append(Note(label(node), "kept", "it has no bias that could be corrected"))
        else:
            slots[node] = slot
    editor = Editor(model)
    data = data.take(range(0, len(data), max(1, len(data) // SAMPLES))[:SAMPLES])
    shifts = _shifts(model, {n: w for n, w in weights.items() if n in slots}, data, ctx)
    for node, slot in slots.items():
        if np.isfinite(shifts[node]).all():
            slot.add(editor, shifts[node])
    return notes


def can_correct(node: ir.Node) -> bool:
    """Whether ``correct_bias`` finds a bias to correct at this node of a quantized model."""
    return _slot(node) is not None


def _shifts(model: Model, weights: Mapping[ir.Node, Array], data: Dataset, ctx: Context) -> dict[ir.Node, Array]:
    """``E[W x] - E[W_quantized x]`` of each node, (channels,) float64, from one pass over the data."""
    copy = model.clone()
    twins = dict(zip(nodes(model), nodes(copy), strict=True))
    editor = Editor(copy)
    means = {_compared(editor, twins[node], weight).name or "": node for node, weight in weights.items()}
    found = {node: np.zeros(weight.shape[weight_axis(node)]) for node, weight in weights.items()}
    counts = dict.fromkeys(weights, 0)
    with ctx.progress.task("correcting biases", len(data)) as advance:
        for values in tap(copy, list(means), lambda: (s.feeds for s in data), ctx.target, ctx.workdir):
            for name, mean in values.items():
                node = means[name]
                if mean.size:  # in a body: nothing where it did not run, a row for each iteration of a loop
                    found[node] += mean.astype(np.float64).reshape(-1, found[node].size).mean(axis=0)
                    counts[node] += 1
            advance(1)
    return {node: total / max(counts[node], 1) for node, total in found.items()}


def _compared(editor: Editor, node: ir.Node, weight: Array) -> ir.Value:
    """The mean for each channel of what ``node`` gives with ``weight``, less what it gives: (channels,)."""
    graph, name = graph_of(node), node.outputs[0].name
    constant = editor.add_constant(f"{name}_float_weight", weight, before=node)
    bias = list(node.inputs[2:])
    twin = ir.node(node.op_type, [node.inputs[0], constant, *bias], dict(node.attributes))
    difference = ir.node("Sub", [twin.outputs[0], node.outputs[0]])
    added, value = [twin, difference], difference.outputs[0]
    axes = [0, *range(2, weight.ndim)]
    if node.op_type != "Conv":
        rows = editor.add_constant(f"{name}_rows", np.array([-1, weight.shape[weight_axis(node)]]), before=node)
        added.append(ir.node("Reshape", [value, rows]))
        value, axes = added[-1].outputs[0], [0]
    if opset(editor.model) >= AXES_AS_INPUT:
        inputs = [value, editor.add_constant(f"{name}_axes", np.array(axes), before=node)]
        added.append(ir.node("ReduceMean", inputs, {"keepdims": 0}))
    else:
        added.append(ir.node("ReduceMean", [value], {"axes": axes, "keepdims": 0}))
    for item in added:
        item.name = editor.fresh_name(f"{name}_{item.op_type}")
        item.outputs[0].name = editor.fresh_name(f"{name}_{item.op_type}_output")
    graph.insert_after(node, added)
    return added[-1].outputs[0]


@dataclass(frozen=True, eq=False)
class _Slot:
    """Where the bias of a layer is: a float constant of ``node``, or an int32 one behind DequantizeLinear.

    Attributes:
        node: The node that reads the bias.
        index: Its input.
        value: The bias, (channels,) float64.
        scale: Scale of the int32 bias, (channels,); ``None``: the bias is float.
    """

    node: ir.Node
    index: int
    value: Array
    scale: Array | None

    def add(self, editor: Editor, shift: Array) -> None:
        """Adds ``shift``, (channels,)."""
        node, index = self.node, self.index
        old = node.inputs[index] if index < len(node.inputs) else None
        base = f"{node.outputs[0].name}_corrected"
        bias = self.value + shift
        if self.scale is None:
            new = editor.add_constant(base, bias.astype(np.float32), before=node)
        else:
            codes = np.clip(np.rint(bias / self.scale), -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)
            inputs = [
                editor.add_constant(f"{base}_quantized", codes, before=node),
                editor.add_constant(f"{base}_scale", self.scale.astype(np.float32), before=node),
                editor.add_constant(f"{base}_zero_point", np.zeros(codes.shape, np.int32), before=node),
            ]
            axis = [ir.AttrInt64("axis", 0)]
            new = editor.insert("DequantizeLinear", inputs, before=node, base=base, attributes=axis)
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, new)
        producer = dequantizer(old)
        if producer is not None and not producer.outputs[0].uses():
            remove_node(producer)
        else:
            clear_unused([old])


def _slot(node: ir.Node) -> _Slot | None:
    """Where the bias of an integer layer is; ``None`` where there is no place for one."""
    if node.op_type == "MatMul":
        reader = single_reader(node.outputs[0])
        if reader is None or not is_op(reader, "Add") or reader.graph is not node.graph:
            return None
        index = 1 if reader.inputs[0] is node.outputs[0] else 0
        bias, scale = array_of(reader.inputs[index]), _scale(node.inputs[1])
        if bias is None or scale is None or bias.size != scale.size or bias.ndim != 1:
            return None
        return _Slot(reader, index, bias.astype(np.float64).reshape(-1), None)
    data, weight = _scale(node.inputs[0]), _scale(node.inputs[1])
    if data is None or weight is None:
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        scale = (weight.astype(np.float64) * float(data.reshape(-1)[0])).reshape(-1)
        return _Slot(node, 2, np.zeros(scale.shape), scale) if (scale > 0).all() else None
    codes, scale = _codes(bias), _scale(bias)
    if codes is None or scale is None:
        return None
    scale = scale.astype(np.float64)
    return _Slot(node, 2, codes.astype(np.float64) * scale, scale)


def _scale(value: ir.Value | None) -> Array | None:
    producer = dequantizer(value)
    return None if producer is None else array_of(producer.inputs[1])


def _codes(value: ir.Value) -> Array | None:
    producer = dequantizer(value)
    return None if producer is None else array_of(producer.inputs[0])
