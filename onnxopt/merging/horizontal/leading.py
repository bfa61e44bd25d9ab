"""Operators on values with the members in front, ``(K, *shape)``: what each needs so that every member is as before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Attribute
from onnxopt.core.tensors import Array
from onnxopt.merging.horizontal.stacks import Channels, Leading, Refusal, Same, Stacker, State, Weights
from onnxopt.merging.horizontal.step import Rule, Step, moved

__all__ = ["LEADING", "NARY", "UNARY"]

UNARY = frozenset(
    {
        *(
            "Abs",
            "Acos",
            "Asin",
            "Atan",
            "Cast",
            "Ceil",
            "Celu",
            "Cos",
            "Dropout",
            "Elu",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
        ),
        *("HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu"),
        *("Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh"),
        "ThresholdedRelu",
    }
)
NARY = frozenset(
    {
        *("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min"),
        *("Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor"),
    }
)
UNKNOWN = Refusal("the number of axes is not known")
OPEN = Refusal("the sizes are not known")
Result = Sequence[State] | Refusal


def _unary(step: Step, stacker: Stacker) -> Result:
    if step.node.op_type == "Dropout" and step.has(2):
        return Refusal("it may be in training mode")
    value = step.stacked(0, stacker)
    if value is None:
        return OPEN
    rest = [state.value if isinstance(state, Same) else None for state in step.inputs[1:]]
    return [Leading(out) for out in stacker.like(step.node, [value, *rest])]


def _nary(step: Step, stacker: Stacker) -> Result:
    ranks = step.ranks()
    if ranks is None:
        return UNKNOWN
    values: list[ir.Value] = []
    for i, state in enumerate(step.inputs):
        value = state.value if isinstance(state, Same) else step.stacked(i, stacker, max(ranks))
        if value is None:
            return OPEN
        values.append(value)
    if step.node.op_type == "PRelu" and isinstance(step.state(0), Same):
        return Refusal("its slope is wider than its input")
    return [Leading(stacker.like(step.node, values)[0])]


def _clip(step: Step, stacker: Stacker) -> Result:
    if not all(isinstance(state, Same) for state in step.inputs[1:] if state is not None):
        return Refusal("its limits differ")
    return _unary(step, stacker)


def _matmul(step: Step, stacker: Stacker) -> Result:
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


def _gemm(step: Step, stacker: Stacker) -> Result:
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


def _at_axis(default: int) -> Rule:
    """The rule of operators with one stacked input and an attribute ``axis``."""

    def rule(step: Step, stacker: Stacker) -> Result:
        value = step.stacked(0, stacker)
        if value is None:
            return OPEN
        rest = [state.value if isinstance(state, Same) else None for state in step.inputs[1:]]
        if any(value is None and state is not None for value, state in zip(rest, step.inputs[1:], strict=True)):
            return Refusal("its further inputs differ")
        changed: dict[str, Attribute] = {"axis": moved([step.int("axis", default)])[0]}
        return [Leading(out) for out in stacker.like(step.node, [value, *rest], changed)]

    return rule


def _layer_norm(step: Step, stacker: Stacker) -> Result:
    """With a scale of 1: that of each member follows, since the operator takes one for all."""
    ranks, used = step.ranks(), [o for o in step.node.outputs[1:] if o.uses()]
    scales = None if step.state(1) is None else stacker.arrays(step.inputs[1] or Weights(()))
    state = step.inputs[0]
    value = state.value if isinstance(state, Same) else step.stacked(0, stacker)
    if ranks is None or scales is None or value is None or used:
        return Refusal("its scale is no weight, or its further outputs are read")
    drawing, kind = stacker.drawing, step.node.outputs[0].type
    ones = drawing.constant(np.ones_like(scales[0]))
    axis: dict[str, Attribute] = {"axis": moved([step.int("axis", -1)])[0]}
    names = {name: a.value for name, a in step.node.attributes.items() if name in ("epsilon", "stash_type")}
    found = drawing.op("LayerNormalization", value, ones, **{**names, **axis})
    found.type = kind
    for index, op_type in ((1, "Mul"), (2, "Add")):
        if step.has(index):
            state = step.inputs[index]
            operand = state.value if isinstance(state, Same) else step.stacked(index, stacker, ranks[0])
            if operand is None:
                return OPEN
            found = drawing.op(op_type, found, operand)
            found.type = kind
    return [Leading(found)]


def _batch_norm(step: Step, stacker: Stacker) -> Result:
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


def _transpose(step: Step, stacker: Stacker) -> Result:
    value, rank = step.stacked(0, stacker), step.rank(0)
    if value is None or rank is None:
        return UNKNOWN
    order = list(step.node.attributes["perm"].as_ints()) if "perm" in step.node.attributes else [*range(rank)][::-1]
    return [Leading(stacker.like(step.node, [value], {"perm": [0, *(i + 1 for i in order)]})[0])]


def _reshape(step: Step, stacker: Stacker) -> Result:
    """A 0 copies the size at its own place, which moves on with all others."""
    value, state, wanted = step.stacked(0, stacker), step.state(1), step.ints(1)
    if value is None or not isinstance(state, Same):
        return OPEN if value is None else Refusal("the shapes differ")
    drawing = stacker.drawing
    head = drawing.constant([stacker.count])
    if wanted is not None:
        shape = drawing.constant([stacker.count, *wanted])
        if step.int("allowzero", 0) and 0 in wanted:
            return Refusal("it makes an empty array")
    else:
        shape = drawing.op("Concat", head, state.value, axis=0)
    return [Leading(stacker.like(step.node, [value, shape])[0])]


def _flatten(step: Step, stacker: Stacker) -> Result:
    rank = step.rank(0)
    value = step.stacked(0, stacker)
    if rank is None or value is None or step.int("axis", 1) not in (1, 1 - rank):
        return Refusal("it joins the batch with other axes")
    sizes = list(step.source(0).shape or ())[1:]
    known = [size for size in sizes if isinstance(size, int)]
    length = int(np.prod(known)) if len(known) == len(sizes) else -1
    found = stacker.drawing.op("Reshape", value, stacker.drawing.constant([stacker.count, 0, length]))
    found.type = step.node.outputs[0].type
    return [Leading(found)]


def _shape(step: Step, stacker: Stacker) -> Result:
    """That of one member, which all have."""
    value, rank, drawing = step.stacked(0, stacker), step.rank(0), stacker.drawing
    if value is None or rank is None:
        return UNKNOWN
    start, end = (k if k >= 0 else max(0, k + rank) for k in (step.int("start", 0), step.int("end", rank)))
    limits = [drawing.constant([k]) for k in (start + 1, end + 1, 0)]
    found = drawing.op("Slice", drawing.op("Shape", value), *limits)
    found.type, found.shape = step.node.outputs[0].type, step.node.outputs[0].shape
    return [Same(found)]


def _with_axes(index: int) -> Rule:
    """The rule of operators that take their axes from input ``index``, or from an attribute in older opsets."""

    def rule(step: Step, stacker: Stacker) -> Result:
        axes = step.ints(index)
        attribute = step.node.attributes.get("axes")
        if axes is None and attribute is not None:
            axes = list(attribute.as_ints())
        value = step.stacked(0, stacker)
        if not axes or value is None:
            return Refusal("its axes are not known")
        if step.has(index):
            inputs = [value, *(None for _ in step.inputs[1:index]), stacker.drawing.constant(moved(axes))]
            return [Leading(stacker.like(step.node, inputs)[0])]
        return [Leading(stacker.like(step.node, [value], {"axes": moved(axes)})[0])]

    return rule


def _slice(step: Step, stacker: Stacker) -> Result:
    value, starts = step.stacked(0, stacker), step.state(1)
    others = [state for state in step.inputs[1:] if state is not None]
    if value is None or not all(isinstance(state, Same) for state in others):
        return Refusal("its limits differ")
    axes = step.ints(3)
    if axes is None:
        size = step.source(1).shape
        if step.has(3) or size is None or not isinstance(size[0], int) or starts is None:
            return Refusal("its axes are not known")
        axes = list(range(size[0]))
    rest = [state.value if isinstance(state, Same) else None for state in step.inputs]
    inputs = [value, *rest[1:3], stacker.drawing.constant(moved(axes)), *rest[4:]]
    return [Leading(stacker.like(step.node, inputs)[0])]


def _concat(step: Step, stacker: Stacker) -> Result:
    values = [step.stacked(i, stacker) for i in range(len(step.inputs))]
    if any(value is None for value in values):
        return OPEN
    changed: dict[str, Attribute] = {"axis": moved([step.int("axis", 0)])[0]}
    return [Leading(stacker.like(step.node, values, changed)[0])]


def _gather(step: Step, stacker: Stacker) -> Result:
    value, indices = step.stacked(0, stacker), step.state(1)
    if value is None or not isinstance(indices, Same):
        return OPEN if value is None else Refusal("its indices differ")
    rank, axis = step.rank(0), step.int("axis", 0)
    if rank is None:
        return UNKNOWN
    changed: dict[str, Attribute] = {"axis": axis % rank + 1}
    return [Leading(stacker.like(step.node, [value, indices.value], changed)[0])]


def _expand(step: Step, stacker: Stacker) -> Result:
    shape, size, own = step.state(1), step.source(1).shape, step.rank(0)
    if not isinstance(shape, Same) or own is None or size is None or not isinstance(size[0], int):
        return Refusal("the shapes differ or are not known")
    value = step.stacked(0, stacker, max(own, size[0]))
    return OPEN if value is None else [Leading(stacker.like(step.node, [value, shape.value])[0])]


LEADING: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(NARY, _nary),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _at_axis(-1)),
    **dict.fromkeys(("ArgMax", "ArgMin", "Split"), _at_axis(0)),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _with_axes(1)),
    **dict.fromkeys(
        [f"Reduce{k}" for k in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")],
        _with_axes(1),
    ),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Transpose": _transpose,
}
