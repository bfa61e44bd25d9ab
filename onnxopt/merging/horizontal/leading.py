"""Operators on values with the members in front, ``(K, *shape)``: what each needs so that every member is as before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Attribute
from onnxopt.core.operators import BROADCAST, REDUCTIONS, UNARY
from onnxopt.merging.horizontal.products import batch_norm, gemm, layer_norm, matmul
from onnxopt.merging.horizontal.stacks import Leading, Refusal, Same, Stacker, State
from onnxopt.merging.horizontal.step import OPEN, UNKNOWN, Rule, Step, moved, with_limits

__all__ = ["LEADING"]

Result = Sequence[State] | Refusal


def _unary(step: Step, stacker: Stacker) -> Result:
    if step.node.op_type == "Dropout" and step.has(2):
        return Refusal("it may be in training mode")
    value = step.stacked(0, stacker)
    if value is None:
        return OPEN
    return [Leading(out) for out in stacker.like(step.node, [value, *step.rest()])]


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


def _at_axis(default: int) -> Rule:
    """The rule of operators with one stacked input and an attribute ``axis``."""

    def rule(step: Step, stacker: Stacker) -> Result:
        value = step.stacked(0, stacker)
        if value is None:
            return OPEN
        if not step.is_alike():
            return Refusal("its further inputs differ")
        changed: dict[str, Attribute] = {"axis": moved([step.int("axis", default)])[0]}
        return [Leading(out) for out in stacker.like(step.node, [value, *step.rest()], changed)]

    return rule


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
    value = step.stacked(0, stacker)
    if value is None or not step.is_alike():
        return Refusal("its limits differ")
    axes = step.ints(3)
    if axes is None:
        size = step.length(1)
        if step.has(3) or size is None:
            return Refusal("its axes are not known")
        axes = list(range(size))
    inputs = [value, *step.rest()[:2], stacker.drawing.constant(moved(axes)), *step.rest(4)]
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
    shape, length, own = step.state(1), step.length(1), step.rank(0)
    if not isinstance(shape, Same) or own is None or length is None:
        return Refusal("the shapes differ or are not known")
    value = step.stacked(0, stacker, max(own, length))
    return OPEN if value is None else [Leading(stacker.like(step.node, [value, shape.value])[0])]


LEADING: dict[str, Rule] = {
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys((*BROADCAST, "PRelu"), _nary),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _at_axis(-1)),
    **dict.fromkeys(("ArgMax", "ArgMin", "Split"), _at_axis(0)),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _with_axes(1)),
    **dict.fromkeys(REDUCTIONS, _with_axes(1)),
    "BatchNormalization": batch_norm,
    "Clip": with_limits(_unary),
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": gemm,
    "LayerNormalization": layer_norm,
    "MatMul": matmul,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Transpose": _transpose,
}
