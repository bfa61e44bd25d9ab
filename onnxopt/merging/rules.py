"""How the outputs of several members become one: each rule in numpy, and as nodes that compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.tensors import Array
from onnxopt.merging.forms import Form
from onnxopt.merging.horizontal.stacks import Leading, Stacker

__all__ = ["Combination", "Linear", "Logistic", "Rule", "Votes"]


class Rule(Protocol):
    """One output of several, all of the same shape and kind."""

    def compute(self, outputs: Sequence[Array]) -> Array:
        """The outputs ``(n, ...) float64`` as one."""
        ...

    def draw(self, drawing: Drawing, values: Sequence[ir.Value]) -> ir.Value:
        """Nodes that compute the same."""
        ...


@dataclass(frozen=True)
class Linear:
    """``sum w_k y_k``; equal weights are the mean.

    Attributes:
        weights: One a member.
    """

    weights: tuple[float, ...]

    def is_mean(self, count: int) -> bool:
        """Whether it is the mean of that many."""
        return len(set(self.weights)) == 1 and bool(np.isclose(self.weights[0] * count, 1))

    def compute(self, outputs: Sequence[Array]) -> Array:
        """The weighted sum."""
        return sum((w * y for w, y in zip(self.weights, outputs, strict=True)), np.zeros(()))

    def draw(self, drawing: Drawing, values: Sequence[ir.Value]) -> ir.Value:
        """Mean, or Mul and Sum."""
        kind = _kind(values)
        if self.is_mean(len(values)):
            return drawing.op("Mean", *values) if len(values) > 1 else values[0]
        scaled = [drawing.op("Mul", y, drawing.constant(w, kind)) for w, y in zip(self.weights, values, strict=True)]
        return drawing.op("Sum", *scaled) if len(scaled) > 1 else scaled[0]


@dataclass(frozen=True)
class Votes:
    """The share of the members that vote for each class, by their largest output (ties: the lower class).

    Attributes:
        axis: Of the classes; ``None``: yes or no, by ``threshold``.
        threshold: Above it a member says yes.
    """

    axis: int | None
    threshold: float = 0.5

    def compute(self, outputs: Sequence[Array]) -> Array:
        """Shares of votes, of the shape of the outputs."""
        if self.axis is None:
            return np.mean([(y > self.threshold).astype(np.float64) for y in outputs], axis=0)
        shares = np.zeros(outputs[0].shape)
        for y in outputs:
            first = np.expand_dims(y.argmax(axis=self.axis), self.axis)
            np.put_along_axis(shares, first, np.take_along_axis(shares, first, self.axis) + 1, self.axis)
        return shares / len(outputs)

    def draw(self, drawing: Drawing, values: Sequence[ir.Value]) -> ir.Value:
        """ArgMax and OneHot, or Greater, and their mean."""
        kind = _kind(values)
        shape = drawing.op("Shape", values[0])
        stacked = drawing.op("Concat", *values, axis=0)  # one ArgMax of all costs less than one a member
        if self.axis is None:
            yes = drawing.op("Greater", stacked, drawing.constant(self.threshold, kind))
            votes = drawing.op("Cast", yes, to=int(ir.DataType.DOUBLE if kind is np.float64 else ir.DataType.FLOAT))
        else:
            best = drawing.op("ArgMax", stacked, axis=self.axis, keepdims=0)
            depth = drawing.op("Gather", shape, drawing.constant(np.asarray(self.axis)), axis=0)
            zero_one = drawing.constant(np.asarray([0, 1], kind))
            votes = drawing.op("OneHot", best, depth, zero_one, axis=self.axis)
        by_member = drawing.op("Concat", drawing.constant([len(values)]), shape, axis=0)
        return drawing.reduce("ReduceMean", drawing.op("Reshape", votes, by_member), 0)


@dataclass(frozen=True)
class Logistic:
    """``softmax(x W + b)`` of all outputs side by side, or without softmax for values and with sigmoid for sides.

    Attributes:
        weight: ``(members * classes, classes) float64``; the outputs of one member stand together.
        bias: ``(classes,)``.
        axis: Of the classes in the outputs.
        link: What follows.
    """

    weight: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    axis: int
    link: str

    def compute(self, outputs: Sequence[Array]) -> Array:
        """The answer of the meta-model, of the shape of one output."""
        table = np.concatenate([np.moveaxis(y, self.axis, -1) for y in outputs], axis=-1)
        scores = table @ np.asarray(self.weight) + np.asarray(self.bias)
        step = {"softmax": "softmax", "sigmoid": "sigmoid", "same": "same"}[self.link]
        found = Form(step, -1).compute(scores)  # pyright: ignore[reportArgumentType]
        return np.moveaxis(found, -1, self.axis)

    def draw(self, drawing: Drawing, values: Sequence[ir.Value]) -> ir.Value:
        """Concat, MatMul, Add, and the link."""
        kind, rank = _kind(values), len(values[0].shape or (0, 0))
        is_last = self.axis in (-1, rank - 1)
        order = [i for i in range(rank) if i != self.axis] + [self.axis]
        moved = list(values) if is_last else [drawing.op("Transpose", y, perm=order) for y in values]
        table = drawing.op("Concat", *moved, axis=-1) if len(moved) > 1 else moved[0]
        scores = self.answer(drawing, table, kind)
        return scores if is_last else drawing.op("Transpose", scores, perm=[order.index(i) for i in range(rank)])

    def answer(self, drawing: Drawing, table: ir.Value, kind: type) -> ir.Value:
        """Nodes that give the scores, with the link, of all outputs side by side on the last axis."""
        weight = drawing.constant(np.asarray(self.weight, kind))
        scores = drawing.op("Add", drawing.op("MatMul", table, weight), drawing.constant(np.asarray(self.bias, kind)))
        match self.link:
            case "softmax":
                return drawing.op("Softmax", scores, axis=-1)
            case "sigmoid":
                return drawing.op("Sigmoid", scores)
            case _:
                return scores


@dataclass(frozen=True)
class Combination:
    """A rule with the members that it takes and how their outputs are brought to one kind.

    Attributes:
        keep: Places of the members that take part.
        forms: One for each of these.
        rule: What becomes of them.
    """

    keep: tuple[int, ...]
    forms: tuple[Form, ...]
    rule: Rule

    def compute(self, outputs: Sequence[Array]) -> Array:
        """The ensemble's output, from those of all members."""
        chosen = [form.compute(outputs[k]) for k, form in zip(self.keep, self.forms, strict=True)]
        return self.rule.compute(chosen)

    def bring(self, drawing: Drawing, values: Sequence[ir.Value]) -> list[ir.Value]:
        """The values of the members that take part, brought to one kind."""
        brought = [form.draw(drawing, value) for form, value in zip(self.forms, values, strict=True)]
        if any(value.dtype == ir.DataType.DOUBLE for value in brought):
            brought = [v if v.dtype == ir.DataType.DOUBLE else _double(drawing, v) for v in brought]
        return brought

    def draw(
        self, drawing: Drawing, brought: Sequence[ir.Value], kind: ir.DataType, stacked: ir.Value | None = None
    ) -> ir.Value:
        """Nodes that compute the output.

        Args:
            drawing: Where they go.
            brought: What ``bring`` gave.
            kind: The type of the output's numbers.
            stacked: The same values as one, the members in front, where that is at hand.
        """
        found = None if stacked is None else draw_stacked(self.rule, drawing, stacked, len(brought[0].shape or ()))
        if found is None and stacked is not None:
            brought = Stacker(drawing, len(brought)).apart(Leading(stacked), brought)
        found = found or self.rule.draw(drawing, brought)
        return found if brought[0].dtype == kind else drawing.op("Cast", found, to=int(kind))


def draw_stacked(rule: Rule, drawing: Drawing, stacked: ir.Value, rank: int) -> ir.Value | None:
    """Nodes that compute the rule of the members' values in one, the members in front; ``None``: it has none.

    Args:
        rule: Linear, Votes, or Logistic on rows.
        drawing: Where they go.
        stacked: ``(members, n, ...)``.
        rank: The number of axes of one member's value.
    """
    kind = _kind([stacked])
    match rule:
        case Linear(weights):
            if not rule.is_mean(len(weights)):
                factors: Array = len(weights) * np.asarray(weights, np.float64).reshape(-1, *(1,) * rank)
                stacked = drawing.op("Mul", stacked, drawing.constant(factors, kind))
            return drawing.reduce("ReduceMean", stacked, 0)
        case Votes(axis, threshold):
            if axis is None:
                yes = drawing.op("Greater", stacked, drawing.constant(threshold, kind))
                votes = drawing.op("Cast", yes, to=int(ir.DataType.from_numpy(np.dtype(kind))))
            else:
                best = drawing.op("ArgMax", stacked, axis=axis % rank + 1, keepdims=0)
                depth = drawing.op("Gather", drawing.op("Shape", stacked), drawing.constant([axis % rank + 1]), axis=0)
                votes = drawing.op(
                    "OneHot", best, depth, drawing.constant(np.asarray([0, 1], kind)), axis=axis % rank + 1
                )
            return drawing.reduce("ReduceMean", votes, 0)
        case Logistic(axis=axis) if rank == 2 and axis in (-1, 1):
            table = drawing.op("Flatten", drawing.op("Transpose", stacked, perm=[1, 0, 2]), axis=1)
            return rule.answer(drawing, table, kind)
        case _:
            return None


def _double(drawing: Drawing, value: ir.Value) -> ir.Value:
    found = drawing.op("Cast", value, to=int(ir.DataType.DOUBLE))
    found.dtype = ir.DataType.DOUBLE
    return found


def _kind(values: Sequence[ir.Value]) -> type:
    return np.float64 if values[0].dtype == ir.DataType.DOUBLE else np.float32
