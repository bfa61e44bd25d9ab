"""What the numbers of an output are : probabilities, logits or values; and how all become one kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.tensors import Array
from onnxopt.errors import DataError
from onnxopt.merging.member import Member

__all__ = ["Activation", "Form", "On", "Task", "activation", "find_task", "forms_for"]

Activation = Literal["softmax", "sigmoid", "none"]
On = Literal["auto", "probs", "logits"]
Step = Literal["same", "softmax", "sigmoid", "log", "logit"]

SMALLEST = 1e-7
"""Probabilities below this are taken for it before a logarithm."""
FLATTER = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout"})
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
SUM_TOLERANCE = 2e-2
"""Rows of quantized or 16-bit probabilities add up to 1 within this."""


@dataclass(frozen=True)
class Task:
    """What the members answer.

    Attributes:
        kind: ``"classes"``: one of several; ``"sides"``: yes or no, one number each; ``"values"``: numbers.
        axis: The axis of the classes, counted from 0; -1 where there are none.
    """

    kind: Literal["classes", "sides", "values"]
    axis: int = -1


@dataclass(frozen=True)
class Form:
    """How an output is brought to the kind and shape of the others.

    Attributes:
        step: ``"log"`` and ``"logit"`` undo softmax and sigmoid, but for a constant a row.
        axis: The axis of the classes in the common shape.
        squeeze: Axes of size 1 to drop.
        unsqueeze: Axes of size 1 to add then.
    """

    step: Step = "same"
    axis: int = -1
    squeeze: tuple[int, ...] = ()
    unsqueeze: tuple[int, ...] = ()

    def compute(self, array: Array) -> Array:
        """The output in float64, in the common form."""
        found = array.astype(np.float64)
        if self.squeeze:
            found = found.squeeze(self.squeeze)
        if self.unsqueeze:
            found = np.expand_dims(found, self.unsqueeze)
        match self.step:
            case "softmax":
                found = np.exp(found - found.max(axis=self.axis, keepdims=True))
                return found / found.sum(axis=self.axis, keepdims=True)
            case "sigmoid":
                return np.exp(-np.logaddexp(0.0, -found))
            case "log":
                return np.log(np.clip(found, SMALLEST, 1.0))
            case "logit":
                clipped = np.clip(found, SMALLEST, 1 - SMALLEST)
                return np.log(clipped) - np.log(1 - clipped)
            case "same":
                return found

    def draw(self, drawing: Drawing, value: ir.Value) -> ir.Value:
        """Nodes that compute the same in float32 (float64 where the output is)."""
        found = value if value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE) else drawing.op("Cast", value, to=1)
        kind = np.float64 if value.dtype == ir.DataType.DOUBLE else np.float32
        if self.squeeze:
            found = drawing.op("Squeeze", found, drawing.constant(list(self.squeeze)))
        if self.unsqueeze:
            found = drawing.op("Unsqueeze", found, drawing.constant(list(self.unsqueeze)))
        match self.step:
            case "softmax":
                found = drawing.op("Softmax", found, axis=self.axis)
            case "sigmoid":
                found = drawing.op("Sigmoid", found)
            case "log":
                limits = (drawing.constant(limit, kind) for limit in (SMALLEST, 1.0))
                found = drawing.op("Log", drawing.op("Clip", found, *limits))
            case "logit":
                limits = (drawing.constant(limit, kind) for limit in (SMALLEST, 1 - SMALLEST))
                clipped = drawing.op("Clip", found, *limits)
                rest = drawing.op("Sub", drawing.constant(1.0, kind), clipped)
                found = drawing.op("Sub", drawing.op("Log", clipped), drawing.op("Log", rest))
            case "same":
                pass
        found.dtype = ir.DataType.DOUBLE if kind is np.float64 else ir.DataType.FLOAT
        return found


def activation(member: Member, outputs: Sequence[Array]) -> tuple[Activation, int | None]:
    """What an output ends in, and the axis of a softmax: as the graph says, else as the numbers show.

    Args:
        member: The model.
        outputs: Its output on some calls.
    """
    node = member.value.producer()
    moved = False
    while node is not None and (node.op_type in FLATTER or node.op_type in QUANTIZERS) and node.inputs[0] is not None:
        moved = moved or node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
        node = node.inputs[0].producer()
    rank = outputs[0].ndim
    if node is not None and node.op_type == "Sigmoid" and not node.domain:
        return "sigmoid", None
    if node is not None and node.op_type == "Softmax" and not node.domain and not moved:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        return "softmax", axis % rank
    for axis in dict.fromkeys((rank - 1, 1)):
        if rank > 1 and outputs[0].shape[axis] > 1 and all(_are_shares(output, axis) for output in outputs):
            return "softmax", axis
    return "none", None


def _are_shares(output: Array, axis: int) -> bool:
    numbers = output.astype(np.float64)
    return bool((numbers >= 0).all() and (np.abs(numbers.sum(axis=axis) - 1) < SUM_TOLERANCE).all())


def find_task(
    shape: tuple[int, ...],
    labels: Array | None,
    found: Sequence[tuple[Activation, int | None]],
    *,
    scores: bool = False,
) -> Task:
    """What the members answer, as the labels say, else as their activations do.

    Args:
        shape: Of the first member's output, the batch included.
        labels: Of the same call.
        found: Activation of each member.
        scores: Whether outputs without activation are taken for scores of classes where nothing else is known.

    Raises:
        DataError: The labels do not fit the outputs.
    """
    softmax = next((axis for kind, axis in found if kind == "softmax"), None)
    if labels is None:
        if softmax is not None:
            return Task("classes", softmax)
        if any(kind == "sigmoid" for kind, _ in found):
            return Task("sides")
        if scores and len(shape) > 1 and shape[_usual_axis(shape)] > 1:
            return Task("classes", _usual_axis(shape))
        return Task("sides") if scores else Task("values")
    if labels.dtype.kind == "f":
        if labels.size != int(np.prod(shape)):
            raise _unfit(labels, shape, "one number for each number of the output")
        return Task("values")
    if labels.dtype.kind not in "iub":
        raise _unfit(labels, shape, "integer class numbers, or floating-point targets")
    if labels.size == int(np.prod(shape)) and (len(shape) == 1 or shape[1:] == labels.shape[1:] or shape[1:] == (1,)):
        return Task("sides")
    if len(shape) > 1 and shape[-1] > 1 and labels.size == int(np.prod(shape[:-1])):
        return Task("classes", len(shape) - 1)
    if len(shape) > 2 and labels.size == shape[0] * int(np.prod(shape[2:])):
        return Task("classes", 1)
    raise _unfit(labels, shape, "one class number an item, or one an item and position")


def _usual_axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) in (2, 4, 5) else len(shape) - 1


def _unfit(labels: Array, shape: tuple[int, ...], fix: str) -> DataError:
    return DataError(
        f"the labels do not fit the outputs: {labels.dtype.name}{list(labels.shape)} for outputs {list(shape)}",
        where="labels of the data",
        fix=f"give {fix}",
    )


def forms_for(
    task: Task, on: On, found: Sequence[tuple[Activation, int | None]], shapes: Sequence[tuple[int, ...]]
) -> tuple[tuple[Form, ...], bool]:
    """How each output is brought to one kind, and whether that kind is probabilities.

    ``auto`` works on probabilities when one member at least gives them or the task is known to be one of classes,
    else on the outputs as they are.
    """
    gives = [kind != "none" for kind, _ in found]
    to_probs = task.kind != "values" and on != "logits"
    steps: list[Step] = []
    for has in gives:
        if task.kind == "values":
            steps.append("same")
        elif to_probs:
            steps.append("same" if has else "softmax" if task.kind == "classes" else "sigmoid")
        else:
            steps.append("same" if not has else "log" if task.kind == "classes" else "logit")
    first = shapes[0]
    forms = tuple(Form(step, task.axis, *_reshape(shape, first)) for step, shape in zip(steps, shapes, strict=True))
    return forms, to_probs


def _reshape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if len(shape) == len(wanted):
        return (), ()
    return tuple(i for i in range(1, len(shape)) if shape[i] == 1), tuple(
        i for i in range(1, len(wanted)) if wanted[i] == 1
    )
