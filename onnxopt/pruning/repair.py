"""Sequential repair of a pruned model: layer by layer, each from what the repaired model in front of it gives.

"Asymmetric" reconstruction: the rows come from the pruned model, whose earlier layers are repaired already, the wanted
outputs from the original (He et al. 2017; GPFQ, Lybrand and Saab 2021). The model keeps its full size meanwhile: what
is cut has zero weights, and its rows are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model
from onnxopt.core.shapes import infer_shapes
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context
from onnxopt.passes.constants import is_op, tensor_of
from onnxopt.passes.gram import not_padding
from onnxopt.pruning.behind import behind
from onnxopt.pruning.factors import separated
from onnxopt.pruning.layers import Layer
from onnxopt.pruning.ridge import Vectors, solve
from onnxopt.pruning.stages import HELD_OUT, MOST_PLACES, PLACES, VECTORS_A_ROW, Stream, side_by_side
from onnxopt.pruning.structure import Structure, alive
from onnxopt.pruning.surgery import numbers, zeros
from onnxopt.pruning.walk import Alive

__all__ = ["Repaired", "repair", "with_biases"]

VECTOR_BYTES = 512 << 20
"""Of the vectors of one layer."""


@dataclass(frozen=True, eq=False)
class Repaired:
    """What repair found.

    Attributes:
        weights: Name of a constant -> its new values, of full size.
        solved: Layers with new weights.
        samples: Samples that were used.
    """

    weights: Mapping[str, Array]
    solved: int
    samples: int


def with_biases(model: Model) -> Model:
    """A copy that can be repaired.

    Every Conv and Gemm of the main graph with constant weights has a bias; weights in Constant nodes are initializers,
    which no stage computes; the values between stages have types.
    """
    copy = LiftConstantsToInitializersPass(size_limit=0)(model.clone()).model
    infer_shapes(copy)
    edit = Editor(copy)
    for node in copy.graph:
        weight = tensor_of(node.inputs[1]) if is_op(node, "Conv", "Gemm") and len(node.inputs) > 1 else None
        if weight is None or not weight.dtype.is_floating_point() or (len(node.inputs) > 2 and node.inputs[2]):
            continue
        swapped = node.attributes.get_int("transB", 0)
        width = weight.shape.numpy()[0 if node.op_type == "Conv" or swapped else 1]
        zero = np.zeros(width, weight.dtype.numpy())
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, edit.add_constant(f"{node.name or node.op_type}_bias", zero, before=node))
    return copy


def repair(
    model: Model,
    structure: Structure,
    found: Sequence[Layer],
    dead: Collection[int],
    shapes: Mapping[str, tuple[int, ...]],
    ctx: Context,
    changed: Mapping[str, Array] | None = None,
    ranks: Mapping[str, int] | None = None,
) -> Repaired:
    """New weights for the layers behind what is cut.

    Args:
        model: The original, with biases; it is not changed.
        structure: Its structure.
        found: Its layers, in graph order.
        dead: Units that go.
        shapes: Shapes of its values in one call.
        ctx: Data to fit to, target, folder, seed.
        changed: Constants that have other values in the pruned model for another reason.
        ranks: Name of the weights of a Conv -> their rank, where it is to become two.
    """
    if ctx.data is None:
        return Repaired({}, 0, 0)
    stays = alive(structure, frozenset(dead))
    weights = {**zeros(structure, stays), **(changed or {})}
    order = {node: i for i, node in enumerate(model.graph)}
    wanted = sorted((layer for layer in found if layer.can_solve), key=lambda layer: order[layer.linear.node])
    parts, original, pruned = side_by_side(model, [layer.linear.node for layer in wanted], shapes, ctx)
    solved = 0
    with ctx.progress.task("repairing layers", len(wanted)) as advance:
        for layer, stage in zip(wanted, parts, strict=True):
            original.advance(stage, {})
            pruned.advance(stage, weights)
            rank = (ranks or {}).get(layer.linear.weight.name or "")
            solved += _solve(layer, original, pruned, stays, weights, ctx.seed, rank)
            advance(1)
    return Repaired(weights, solved, len(original.feeds))


def _solve(
    layer: Layer,
    original: Stream,
    pruned: Stream,
    stays: Alive,
    weights: dict[str, Array],
    seed: int,
    rank: int | None,
) -> bool:
    """Whether the layer got new weights: it is to have a lower rank, or what it reads is not as in the original."""
    linear = layer.linear
    name, bias_name = linear.weight.name or "", linear.bias.name if linear.bias is not None else None
    full = numbers(linear.weight)
    matrix = layer.matrix(full)
    first = np.zeros(matrix.shape[0] * matrix.shape[2]) if linear.bias is None else numbers(linear.bias).reshape(-1)
    has_bias = linear.bias is not None and _is_own(linear.bias) and first.size == matrix.shape[0] * matrix.shape[2]
    offsets = (first if has_bias else np.zeros_like(first)).reshape(matrix.shape[0], -1).astype(np.float32)
    rows = layer.rows_alive(stays)
    columns = layer.columns_alive(stays, matrix.shape[0] * matrix.shape[2])
    vectors, same = _gather(layer, matrix, offsets, original, pruned, rows, columns, seed)
    if vectors is None or (same and rank is None):
        return False
    present = layer.matrix(weights.get(name, full)).copy()
    moved: Array = offsets.copy()
    inside = rows[:, :, None] & columns[:, None, :]
    start = present[inside].reshape(vectors.x.shape[0], vectors.x.shape[1], vectors.y.shape[1])
    bias = offsets[columns].reshape(vectors.y.shape[:2]) if has_bias else None
    better, bias = (start, bias) if same else solve(vectors, start, bias)
    if rank is not None:
        better, bias = separated(vectors, better, bias, layer.reads, rank)
    present[inside] = better.ravel()
    if bias is not None:
        moved[columns] = bias.ravel()
    weights[name] = layer.weight(present, full)
    if has_bias and bias_name is not None and linear.bias is not None:
        like = numbers(linear.bias)
        moved[~columns] = 0
        new: Array = moved.reshape(like.shape)
        weights[bias_name] = new.astype(like.dtype)
    return True


def _is_own(bias: ir.Value) -> bool:
    return len(list(bias.uses())) == 1


def _gather(
    layer: Layer,
    matrix: Array,
    offsets: Array,
    original: Stream,
    pruned: Stream,
    rows: Array,
    columns: Array,
    seed: int,
) -> tuple[Vectors | None, bool]:
    """What to solve from, ``None`` where nothing of the layer is left; and whether it reads what it did before."""
    left = rows.any(axis=1) & columns.any(axis=1)
    if not left.any():
        return None, True
    shape = int(left.sum()), int(rows[left][0].sum()), int(columns[left][0].sum())
    samples = len(original.feeds)
    room = VECTOR_BYTES // (4 * shape[0] * (shape[1] + 2 * shape[2]))
    wanted = min(room, max(PLACES * samples, VECTORS_A_ROW * layer.reads.size))
    places = min(MOST_PLACES, max(1, wanted // samples))
    rng = np.random.default_rng([seed, layer.reads.size, matrix.shape[2]])
    after_it = behind(layer.linear)
    vectors = Vectors(*shape, places * samples, after_it.bounds)
    same = bool(rows.all())
    judging = range(HELD_OUT - 1, samples, HELD_OUT)
    for index in (*(i for i in range(samples) if i not in judging), *judging):
        before = original.value(index, layer.reads.value)
        after = pruned.value(index, layer.reads.value)
        same = same and np.array_equal(before, after)
        chosen = layer.reads.draw(before, places, rng, not_padding(original.feeds[index]))
        x, now = layer.reads.at(before, chosen), layer.reads.at(after, chosen)
        y = np.matmul(matrix.transpose(0, 2, 1), x) + offsets[:, :, None]
        added: Array | float = 0.0
        shift = _added(layer, after_it.added, chosen, original, pruned, index, y.shape)
        if shift is not None:
            y = y + shift[0]
            added = shift[1][columns].reshape(shape[0], shape[2], -1)
        x_left = now[rows].reshape(shape[0], shape[1], -1)
        y_left = y[columns].reshape(shape[0], shape[2], -1)
        vectors.update(x_left, y_left, added, judges=index in judging)
    return vectors, same


def _added(
    layer: Layer,
    name: str | None,
    chosen: Array,
    original: Stream,
    pruned: Stream,
    index: int,
    shape: tuple[int, ...],
) -> tuple[Array, Array] | None:
    """What is added to the output at the chosen places, in both streams: (groups, columns, n); ``None``: not known."""
    if name is None or not original.has(index, name):
        return None
    found: list[Array] = []
    for stream in (original, pruned):
        value = stream.value(index, name)
        columns = shape[0] * shape[1]
        if layer.reads.kernel is None:
            if value.shape[-1] != columns:
                return None
            rows = value.reshape(-1, columns)
        else:
            if value.ndim != len(layer.reads.kernel) + 2 or value.shape[1] != columns:
                return None
            rows = np.moveaxis(value, 1, -1).reshape(-1, columns)
        if len(rows) <= int(chosen.max(initial=0)):
            return None
        found.append(rows[chosen].T.reshape(shape).astype(np.float32))
    return found[0], found[1]
