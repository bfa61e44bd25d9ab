"""Products and normalizations of values with the members in front: operators with weights of each member."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Attribute
from onnxopt.core.tensors import Array
from onnxopt.merging.horizontal.stacks import Channels, Leading, Refusal, Same, Stacker, State, Weights
from onnxopt.merging.horizontal.step import OPEN, UNKNOWN, Step, moved

__all__ = ["batch_norm", "gemm", "layer_norm", "matmul"]

Result = Sequence[State] | Refusal


def matmul(step: Step, stacker: Stacker) -> Result:
    """A batched product; a plain one of rows that all members read with the columns of all of them."""
    ranks, second = step.ranks(), step.inputs[1]
    weights = None if second is None else stacker.arrays(second)
    if ranks == [2, 2] and weights is not None and isinstance(state := step.inputs[0], Same):
        return _side_by_side(step, stacker, state.value, weights, None)
    if ranks is None or min(ranks) < 2:
        return UNKNOWN if ranks is None else Refusal("it multiplies a vector")
    values = [
        state.value if isinstance(state, Same) else step.stacked(i, stacker, max(ranks))
        for i, state in enumerate(step.inputs)
    ]
    return OPEN if None in values else [Leading(stacker.like(step.node, values)[0])]


def gemm(step: Step, stacker: Stacker) -> Result:
    """``alpha A' B' + beta C`` as MatMul and Add, the factors in the weights."""
    attributes = step.node.attributes
    alpha, beta = (attributes[n].as_float() if n in attributes else 1.0 for n in ("alpha", "beta"))
    first, second = step.inputs[:2]
    if step.int("transA", 0) or first is None or second is None:
        return Refusal("its first input is transposed")
    is_transposed = bool(step.int("transB", 0))

    def scaled(array: Array) -> Array:
        return (array.T if is_transposed else array) * np.asarray(alpha, array.dtype)

    weights = stacker.arrays(second, scaled)
    left = first.value if isinstance(first, Same) else step.stacked(0, stacker)
    if weights is None or left is None:
        return Refusal("its second input is no weight") if weights is None else OPEN
    third = step.state(2)
    bias = None if third is None else stacker.arrays(third, lambda array: array * np.asarray(beta, array.dtype))
    if isinstance(first, Same) and (
        third is None or (bias is not None and all(a.size == weights[0].shape[1] for a in bias))
    ):
        return _side_by_side(step, stacker, first.value, weights, bias)
    found = stacker.drawing.op("MatMul", left, stacker.stack(weights, 2))
    found.type = step.node.outputs[0].type
    if third is not None:
        if bias is None and beta != 1:
            return Refusal("what it adds is no weight")
        added = stacker.stack(bias, 2) if bias is not None else step.stacked(2, stacker, 2)
        if added is None:
            return OPEN
        found = stacker.drawing.op("Add", found, added)
        found.type = step.node.outputs[0].type
    return [Leading(found)]


def _side_by_side(
    step: Step, stacker: Stacker, value: ir.Value, weights: Sequence[Array], bias: Sequence[Array] | None
) -> Result:
    """Rows that all members read, times the columns of all of them: one plain product, which runtimes pack ahead."""
    drawing, width = stacker.drawing, weights[0].shape[1]
    inputs = [value, stacker.side_by_side(weights, axis=1)]
    if bias is not None:
        inputs.append(stacker.side_by_side([array.ravel() for array in bias]))
    found = drawing.op("MatMul" if bias is None else "Gemm", *inputs)
    found.type = step.node.outputs[0].type
    return [Channels(found, width)]


def layer_norm(step: Step, stacker: Stacker) -> Result:
    """With a scale of 1: that of each member follows, since the operator takes one for all."""
    ranks, used = step.ranks(), [o for o in step.node.outputs[1:] if o.uses()]
    scales = None if step.state(1) is None else stacker.arrays(step.inputs[1] or Weights(()))
    state = step.inputs[0]
    value = state.value if isinstance(state, Same) else step.stacked(0, stacker)
    if ranks is None or scales is None or value is None or used:
        return Refusal("its scale is no weight, or its further outputs are read")
    drawing, kind = stacker.drawing, step.node.outputs[0].type
    ones = drawing.constant(np.ones_like(scales[0]))
    own = step.int("axis", -1)
    axis: dict[str, Attribute] = {"axis": own if isinstance(state, Same) else moved([own])[0]}
    found = stacker.like(step.node, [value, ones], axis)[0]
    for index, op_type in ((1, "Mul"), (2, "Add")):
        if step.has(index):
            state = step.inputs[index]
            operand = state.value if isinstance(state, Same) else step.stacked(index, stacker, ranks[0])
            if operand is None:
                return OPEN
            found = drawing.op(op_type, found, operand)
            found.type = kind
    return [Leading(found)]


def batch_norm(step: Step, stacker: Stacker) -> Result:
    """``x * s + b`` with ``s = scale / sqrt(var + epsilon)``, ``b = bias - mean * s``, of values ``(n, c)``."""
    if step.int("training_mode", 0) or any(o.uses() for o in step.node.outputs[1:]):
        return Refusal("it is in training mode")
    if step.rank(0) != 2:
        return Refusal("it is no normalization of rows")
    found = [stacker.arrays(state) if state is not None else None for state in step.inputs[1:5]]
    constants = [arrays for arrays in found if arrays is not None]
    state = step.inputs[0]
    value = state.value if isinstance(state, Same) else step.stacked(0, stacker)
    if len(constants) < 4 or value is None:
        return Refusal("its statistics are no weights")
    epsilon = step.node.attributes["epsilon"].as_float() if "epsilon" in step.node.attributes else 1e-5
    scales: list[Array] = []
    biases: list[Array] = []
    for scale, bias, mean, variance in zip(*constants, strict=True):
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        scales.append(factor.astype(scale.dtype))
        biases.append((bias - mean * factor).astype(scale.dtype))
    result = stacker.drawing.op("Mul", value, stacker.stack(scales, 2))
    result = stacker.drawing.op("Add", result, stacker.stack(biases, 2))
    result.type = step.node.outputs[0].type
    return [Leading(result)]
