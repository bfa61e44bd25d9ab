"""Outliers that no weights can absorb: a Mul in front of the layer evens its channels out, the worst get a float path.

Behind a Gelu or an attention the scales of ``smooth`` have no weights to move into, and a few channels of a
transformer hold values many times as large as all others (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339). Both
take the step of the integer grid away from everything else: on MiniLM one channel of 1536 causes most of the error.

``y = x W`` becomes ``y = (x * m) (W / m) + x[C] W[C]``: ``m`` is 0 for the outlier channels ``C``, and a SmoothQuant
scale for the others. The second product has a handful of columns and stays float; one pass over ``x`` is little beside
``W``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, graph_of
from onnxopt.core.query import Model, constant, label
from onnxopt.core.tensors import Array, read
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import is_op, single_reader
from onnxopt.quantization.fixes.regions import Region, weight_reason
from onnxopt.quantization.fixes.rescale import rescale
from onnxopt.quantization.fixes.smooth import Channels, best_scale, change_each, expected_noise, smoothed_regions, views
from onnxopt.quantization.scheme import CPU_X86, QuantScheme
from onnxopt.quantization.select import compute_reason, flag, keep_float, weight_axis

__all__ = ["EvenOut"]

LINEAR = frozenset({"MatMul", "Gemm"})
WORTH = 0.6
"""The expected noise must fall to this share of what it was to pay for the Mul."""
FURTHER = 0.8
"""Twice as many outlier channels must lower it to this share of what it is with fewer."""
MOST_OUTLIERS = 8
FEWEST_OUTPUTS = 64
"""A layer with fewer output channels does too little work for each element that the Mul touches."""


@dataclass(frozen=True)
class EvenOut:
    """Evens out what MatMul and Gemm read, where no weights can absorb a scale; outputs stay equal up to rounding."""

    name: ClassVar[str] = "even-out"
    lossy: ClassVar[bool] = False

    scheme: QuantScheme = CPU_X86

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Inserts a Mul, and a float path for outlier channels, where it gains; each place counts as one change.

        Raises:
            DataError: There are no data to observe.
        """
        return change_each(self.name, _unreached(model), self._even_out, model, ctx)

    def _even_out(self, editor: Editor, region: Region, seen: list[Channels]) -> str | None:
        outliers, scale, share = _best(views(region), seen, self.scheme)
        if share > WORTH:
            return f"neither scales nor a float path lower its noise below {share:.0%}"
        _rewrite(editor, region, outliers, scale)
        return None


def _unreached(model: Model) -> list[Region]:
    """One region for each activation that linear layers read and whose scale no weights can absorb."""
    absorbed = {v for region in smoothed_regions(model)[0] for v in region.values}
    found: dict[ir.Value, Region] = {}
    for node in model.graph:
        if node.op_type not in LINEAR or node.domain != "" or compute_reason(node) or weight_reason(node):
            continue
        data, weight = node.inputs[0], constant(node.inputs[1])
        if data is None or weight is None or data in absorbed:
            continue
        axis = weight_axis(node)
        channels, outputs = int(weight.shape.numpy()[1 - axis]), int(weight.shape.numpy()[axis])
        if outputs >= FEWEST_OUTPUTS:
            found.setdefault(data, Region(channels, [data])).readers.append(node)
    return list(found.values())


def _best(weights: list[Array], seen: list[Channels], scheme: QuantScheme) -> tuple[Array, Array, float]:
    """Outlier channels, scales, and the noise that is left as a share of what it is now.

    More outlier channels, and scales at all, are taken only for a good deal less noise.
    """
    size = np.max([np.maximum(-c.low, c.high) for c in seen], axis=0)
    order = np.argsort(-size, kind="stable")
    plain = np.ones(len(size))
    now = expected_noise(weights, seen, scheme)(plain)
    if now <= 0:
        return order[:0], plain, 1.0
    kept = (order[:0], plain, 1.0)
    count = 0
    while count <= min(MOST_OUTLIERS, len(size) // 8):
        outliers = order[:count]
        left = [c.without(outliers) for c in seen]
        noise = expected_noise(weights, seen, scheme, left=left)
        for scale in (plain, best_scale(weights, left, scheme)[0]):
            share = noise(scale) / now
            if share < FURTHER * kept[2]:
                kept = (outliers, scale, share)
        count = 2 * count or 1
    return kept


def _rewrite(editor: Editor, region: Region, outliers: Array, scale: Array) -> None:
    value = region.values[0]
    originals = {node: _rows(node, outliers) for node in region.readers}
    rescale(editor, region, scale)
    factor = 1 / scale
    factor[outliers] = 0.0
    first = region.readers[0]
    base = value.name or "activation"
    mask = editor.add_constant(f"{base}_evening", factor.astype(np.float32), before=first)
    product = ir.node("Mul", [value, mask], name=editor.fresh_name(f"{base}_even_Mul"))
    added = [product]
    if outliers.size:
        index = editor.add_constant(f"{base}_outliers", outliers.astype(np.int64), before=first)
        added.append(ir.node("Gather", [value, index], {"axis": -1}, name=editor.fresh_name(f"{base}_outliers_Gather")))
    for node, suffix in zip(added, ("even", "outlying"), strict=False):
        node.outputs[0].name = editor.fresh_name(f"{base}_{suffix}")
        node.outputs[0].type = value.type
    product.outputs[0].shape = value.shape
    graph, producer = graph_of(first), value.producer()
    if producer is None:
        graph.insert_before(graph[0], added)
    else:
        graph.insert_after(producer, added)
    for node in region.readers:
        node.replace_input_with(0, product.outputs[0])
        if outliers.size:
            _add_path(editor, node, added[1].outputs[0], originals[node])


def _rows(node: ir.Node, outliers: Array) -> Array:
    """The weights of the outlier channels: (outliers, outputs) float32."""
    tensor = constant(node.inputs[1])
    if tensor is None:
        raise ValueError(f"{node.name!r} has no constant weight")
    weight = read(tensor)
    rows = (weight.T if flag(node, "transB") else weight)[outliers]
    alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
    return np.ascontiguousarray(rows * np.float32(alpha), np.float32)


def _add_path(editor: Editor, node: ir.Node, data: ir.Value, rows: Array) -> None:
    """Adds ``data @ rows`` to what ``node`` gives, behind its bias, which the integer kernel takes along."""
    last = node
    bias = single_reader(node.outputs[0])
    if bias is not None and is_op(bias, "Add") and bias.graph is node.graph and _is_bias(bias, node.outputs[0]):
        last = bias
    result = last.outputs[0]
    weight = editor.add_constant(f"{node.outputs[0].name}_outlier_weight", rows, before=node)
    path = ir.node("MatMul", [data, weight], name=editor.fresh_name(f"{label(node)}_outliers"))
    keep_float(path, "it holds the outlier channels of a layer")
    total = ir.node("Add", [result, path.outputs[0]], name=editor.fresh_name(f"{label(node)}_with_outliers"))
    for made, suffix in ((path, "outlier_part"), (total, "whole")):
        made.outputs[0].name = editor.fresh_name(f"{result.name}_{suffix}")
        made.outputs[0].type, made.outputs[0].shape = result.type, result.shape
    graph_of(last).insert_after(last, [path, total])
    uses = [(use.node, use.idx) for use in result.uses() if use.node is not total]
    name, is_output = result.name, result.is_graph_output()
    for reader, index in uses:
        reader.replace_input_with(index, total.outputs[0])
    if is_output:
        outputs = graph_of(last).outputs
        for index, output in enumerate(outputs):
            if output is result:
                outputs[index] = total.outputs[0]
        result.name = editor.fresh_name(f"{name}_part")
        total.outputs[0].name = name


def _is_bias(node: ir.Node, data: ir.Value) -> bool:
    other = node.inputs[1] if node.inputs[0] is data else node.inputs[0]
    tensor = constant(other)
    return tensor is not None and len(tensor.shape) == 1 and not node.outputs[0].is_graph_output()
