"""A Conv as two of lower rank: kh x 1 into some channels, then 1 x kw. Closed form, from data.

Source: the separable filters of Jaderberg et al. 2014, https://arxiv.org/abs/1405.3866 (scheme 2), fitted to what the
layer gives instead of to its weights, as in Zhang et al. 2015, https://arxiv.org/abs/1505.06798. Written as a matrix of
(columns of the window, outputs) by (inputs, rows of the window), the weights of the two are a product of the given
rank. The first factor is the best one for the second moments of what the layer reads; the second is the ridge
regression from what the first gives.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused
from onnxopt.core.query import Model, label
from onnxopt.core.shapes import infer_shapes
from onnxopt.core.tensors import Array
from onnxopt.passes.gram import Reads
from onnxopt.pruning.layers import Layer
from onnxopt.pruning.ridge import Vectors, solve
from onnxopt.pruning.surgery import numbers

__all__ = ["ROWS", "Factor", "error_curve", "factors", "separated", "split"]

ROWS = "_rows"
"""What the name of the first of two Convs has behind that of the one; the second keeps it."""
DAMPING = 1e-6
"""Of the mean of the diagonal of second moments: no direction counts as less."""


@dataclass(frozen=True, eq=False)
class Factor:
    """A Conv that can become two.

    Attributes:
        layer: The Conv.
        weight: Name of its weights.
        shape: Of the weights: outputs, inputs, height and width of the window.
        full: The rank from which on two cost as much as one; stands for the Conv as it is.
        first_macs: Multiply-accumulates of the first of the two, for each channel between them.
        second_macs: Of the second.
    """

    layer: Layer
    weight: str
    shape: tuple[int, int, int, int]
    full: int
    first_macs: int
    second_macs: int


def factors(found: Sequence[Layer], shapes: Mapping[str, tuple[int, ...]], keep: Collection[str]) -> tuple[Factor, ...]:
    """The Convs of one group with a window of more than one row and column, whose weights nothing else reads.

    Args:
        found: Layers, in graph order.
        shapes: Shapes of values in one call.
        keep: Labels of nodes that stay as they are.
    """
    made: list[Factor] = []
    for layer in found:
        kernel = layer.reads.kernel
        read, given = shapes.get(layer.reads.value), shapes.get(layer.linear.node.outputs[0].name or "")
        if kernel is None or len(kernel) != 2 or min(kernel) < 2 or layer.reads.groups != 1 or not layer.can_solve:
            continue
        if read is None or given is None or layer.name in keep or layer.linear.weight.name is None:
            continue
        outputs, inputs = given[1], layer.reads.size // math.prod(kernel)
        first = given[0] * inputs * kernel[0] * given[2] * read[3]
        second = given[0] * outputs * kernel[1] * given[2] * given[3]
        whole = math.prod(given) * layer.reads.size
        full = whole // max(first + second, 1)
        if full > 1:
            shape = outputs, inputs, kernel[0], kernel[1]
            made.append(Factor(layer, layer.linear.weight.name, shape, full, first, second))
    return tuple(made)


def error_curve(factor: Factor, moments: Sequence[Array], ranks: Array) -> Array:
    """Share of the energy of the output that each rank loses, before anything is solved again.

    Args:
        factor: The Conv.
        moments: Second moments of what it reads, of each part of its rows: (1, size, size).
        ranks: Ascending; the last stands for the Conv as it is.
    """
    matrix = _unfolded(factor.layer.matrix(numbers(factor.layer.linear.weight))[0], factor.layer.reads)
    root = _root(_folded(factor.layer.reads, moments))
    if root is None:
        return np.append(np.ones(len(ranks) - 1), 0.0)
    seen = matrix @ root[0]
    energy = np.linalg.eigvalsh(seen.T @ seen).clip(0)[::-1]
    left = np.append(energy[::-1].cumsum()[::-1], 0.0) / max(float(energy.sum()), 1e-30)
    return np.append(left[np.minimum(ranks[:-1], len(energy))], 0.0)


def separated(
    vectors: Vectors, start: Array, bias: Array | None, reads: Reads, rank: int
) -> tuple[Array, Array | None]:
    """Weights of a given rank (1, rows, columns), as one Conv, and bias, for what the layer should give.

    Args:
        vectors: What the layer reads and what it should give.
        start: The best weights of full rank.
        bias: Their bias; ``None``: there is none, and none can be added.
        reads: The rows: whole input channels.
        rank: Channels between the two; fewer where the weights have fewer.
    """
    width = (reads.kernel or (1, 1))[1]
    columns = vectors.x[0, :, : vectors.count].reshape(-1, width, vectors.count)
    moment = sum((column @ column.T for column in np.moveaxis(columns, 1, 0)), np.float32(0))
    matrix, root = _unfolded(start[0], reads), _root(np.asarray(moment, np.float64))
    if root is None:
        return start, bias
    seen = matrix @ root[0]
    directions: Array = np.linalg.eigh(seen.T @ seen)[1][:, ::-1][:, :rank]
    first: Array = (root[1] @ directions).T
    second: Array = (seen @ directions).reshape(width, -1, len(first)).transpose(2, 0, 1)
    between = Vectors(1, 0, 0, 0, vectors.bounds)
    between.x = np.tensordot(first.astype(np.float32), columns, 1).reshape(1, -1, vectors.count)
    between.y, between.added = vectors.y, vectors.added
    between.fitted, between.count = vectors.fitted, vectors.count
    better, bias = solve(between, second.reshape(1, len(first) * width, -1), bias)
    weight = np.tensordot(first.T, better.reshape(len(first), width, -1), 1)
    return weight.reshape(start.shape), bias


def _unfolded(weight: Array, reads: Reads) -> Array:
    """The weights (rows, columns) as the matrix to divide: (columns of the window x outputs, inputs x its rows)."""
    width = (reads.kernel or (1, 1))[1]
    tall = weight.astype(np.float64).reshape(len(weight) // width, width, -1)
    return tall.transpose(1, 2, 0).reshape(-1, len(tall))


def _folded(reads: Reads, moments: Sequence[Array]) -> Array:
    """The second moments of the columns of the window, from those of the whole window, in parts."""
    width = (reads.kernel or (1, 1))[1]
    size = sum(len(part[0]) for part in moments) // width
    moment: Array = np.zeros((size, size))
    start = 0
    for part in moments:
        place: Array = np.arange(start, start + len(part[0]))
        for column in range(width):
            own: Array = np.flatnonzero(place % width == column)
            at: Array = place[own] // width
            moment[at[:, None], at] += part[0][own[:, None], own]
        start += len(part[0])
    return moment


def _root(moment: Array) -> tuple[Array, Array] | None:
    """A root of second moments, and its inverse transposed; ``None``: they are no numbers."""
    if not np.isfinite(moment).all():
        return None
    values, vectors = np.linalg.eigh(moment)
    sizes = np.sqrt(np.maximum(values, max(DAMPING * float(values.mean()), 1e-30)))
    return vectors * sizes, vectors / sizes


def split(model: Model, ranks: Mapping[str, int]) -> Model:
    """A copy in which Convs whose weights are of low rank are two.

    Args:
        model: The model; it is not changed.
        ranks: Name of the weights -> channels between the two; what the weights hold beyond that is lost.
    """
    copy = model.clone()
    edit = Editor(copy)
    for node in list(copy.graph):
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        rank = None if weight is None else ranks.get(weight.name or "")
        if node.op_type == "Conv" and weight is not None and rank is not None:
            _split(edit, node, weight, rank)
    infer_shapes(copy)
    return copy


def _split(edit: Editor, node: ir.Node, weight: ir.Value, rank: int) -> None:
    array = numbers(weight)
    outputs, inputs, height, width = array.shape
    matrix = array.astype(np.float64).transpose(3, 0, 1, 2).reshape(width * outputs, inputs * height)
    values, directions = np.linalg.eigh(matrix.T @ matrix)
    rank = min(rank, *matrix.shape)
    own: Array = directions[:, ::-1][:, :rank]
    even = np.maximum(values[::-1][:rank], 1e-30) ** 0.25  # both hold the root of each singular value
    first = (own * even).T.reshape(rank, inputs, height, 1)
    second = (matrix @ (own / even)).reshape(width, outputs, rank, 1).transpose(1, 2, 3, 0)
    read = [
        edit.add_constant(f"{weight.name}_{name}", np.ascontiguousarray(part, array.dtype), before=node)
        for name, part in (("rows", first), ("columns", second))
    ]
    between = edit.insert(
        "Conv",
        [node.inputs[0], read[0]],
        before=node,
        base=f"{node.outputs[0].name}{ROWS}",
        attributes=_along(node, 0, height),
    )
    maker = between.producer()
    if maker is not None:
        maker.name = edit.fresh_name(f"{label(node)}{ROWS}")
    node.replace_input_with(0, between)
    node.replace_input_with(1, read[1])
    own_window = _along(node, 1, width)
    node.attributes.clear()
    for attribute in own_window:
        node.attributes[attribute.name] = attribute
    clear_unused([weight])


def _along(node: ir.Node, axis: int, size: int) -> list[ir.Attr]:
    """The attributes of the Conv along one axis of the window of ``node``."""
    get = node.attributes.get_ints
    found = {"kernel_shape": [1, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0]}
    found["kernel_shape"][axis] = size
    for name in ("strides", "dilations"):
        found[name][axis] = (get(name) or (1, 1))[axis]
    for side in (axis, axis + 2):
        found["pads"][side] = (get("pads") or (0, 0, 0, 0))[side]
    automatic = node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET"
    named: list[ir.Attr] = []
    if automatic != "NOTSET":
        del found["pads"]
        named.append(ir.AttrString("auto_pad", automatic))
    return [*(ir.AttrInt64s(name, value) for name, value in found.items()), *named]
