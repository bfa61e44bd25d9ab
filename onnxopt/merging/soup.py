"""One model whose weights are the mean of those of several fine-tunes of one parent.

Fine-tunes of one parent lie in one valley of the loss, so the mean of their weights answers like the mean of their
outputs, at the cost of one. Independently trained models do not, and their mean collapses: that is how they are told.
Source: Wortsman et al., "Model soups" (ICML 2022), the greedy soup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant, graphs, label
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array, borrow, content_key
from onnxopt.errors import ModelError
from onnxopt.merging.member import Member

__all__ = ["Recipe", "Score", "choose", "mean_model", "require_alike"]

COLLAPSE = 0.03
"""A mean of two models that scores this much below the mean of their scores is no model of the same family."""
COLLAPSE_RELATIVE = 0.2
"""The same for errors, relative."""


@dataclass(frozen=True)
class Score:
    """What samples say of one model.

    Attributes:
        metric: Its score.
        squared_error: Mean of the squared distance of its probabilities (values) from the truth.
    """

    metric: float
    squared_error: float


@dataclass(frozen=True)
class Recipe:
    """What the soup is made of.

    Attributes:
        keep: Places of the members, the best first.
        score: Of the soup on the samples that chose it.
        scores: Of each member on these.
        notes: Why members were left out.
    """

    keep: tuple[int, ...]
    score: float
    scores: tuple[float, ...]
    notes: tuple[Note, ...]


def require_alike(members: Sequence[Member]) -> None:
    """Nothing, when all members have one graph and differ in floating-point weights only.

    Raises:
        ModelError: They do not; it says where.
    """
    first = members[0]
    for member in members[1:]:
        for a, b in _pairs(first, member):
            one, two = constant(a), constant(b)
            if one is None or two is None or (one is two):
                continue
            if one.dtype != two.dtype or tuple(one.shape) != tuple(two.shape):
                raise _unlike(first, member, f"weight {a.name!r} is {_kind(one)} and {_kind(two)}")
            if not one.dtype.is_floating_point() and content_key(one) != content_key(two):
                raise _unlike(
                    first,
                    member,
                    f"integers {a.name!r} differ, and only floating-point weights have a mean (quantized models?)",
                )


def mean_model(members: Sequence[Member], keep: Sequence[int]) -> Model:
    """A copy of the first kept member whose weights are the mean of those of all kept ones."""
    copy = members[keep[0]].model.clone()
    clone = Member(members[keep[0]].title, members[keep[0]].path, copy, members[keep[0]].output)
    sides = [_weights(clone, members[k]) for k in keep]
    for name, value in sides[0].items():
        tensors = [t for t in (constant(side[name][1]) for side in sides) if t is not None]
        if not tensors or not tensors[0].dtype.is_floating_point() or len({id(t) for t in tensors}) == 1:
            continue
        total: Array = np.zeros(())
        for tensor in tensors:
            with borrow(tensor) as array:
                total = total + array.astype(np.float64)
        mean = (total / len(tensors)).astype(tensors[0].numpy().dtype)
        own, fresh = value[0], ir.tensor(mean, name=value[0].name)
        producer = own.producer()
        if producer is None:
            own.const_value = fresh
        else:
            producer.attributes["value"] = ir.AttrTensor("value", fresh)
            own.const_value = None
    return copy


def choose(
    members: Sequence[Member], score: Callable[[Model], Score], *, higher_is_better: bool, relative: bool
) -> Recipe:
    """The greedy soup: from the best member on, each further one that does not raise the squared error.

    The squared error of the probabilities tells models apart with far fewer samples than the share of right answers.

    Args:
        members: Of one graph.
        score: Of a model on samples that do not judge the result.
        higher_is_better: Of the metric.
        relative: Whether its drops are relative.

    Raises:
        ModelError: The mean of the best member and any other collapses: they are no fine-tunes of one parent.
    """
    sign = 1 if higher_is_better else -1
    found = [score(member.model) for member in members]
    scores = tuple(s.metric for s in found)
    order = sorted(range(len(members)), key=lambda k: found[k].squared_error)
    best = order[0]
    notes: list[Note] = []
    fits: list[int] = []
    worst = ""
    for k in order[1:]:
        middle = score(mean_model(members, (best, k))).metric
        between = (scores[best] + scores[k]) / 2
        gap = sign * (between - middle) / (abs(between) if relative and between else 1)
        if gap > (COLLAPSE_RELATIVE if relative else COLLAPSE):
            worst = (
                f"the mean of the weights of {members[best].title} and {members[k].title} scores {middle:.4g}, they "
                f"themselves {scores[best]:.4g} and {scores[k]:.4g}"
            )
            notes.append(Note(members[k].title, "left out", f"it is no fine-tune of the same parent: {worst}"))
            continue
        fits.append(k)
    if not fits:
        raise ModelError(
            f"these are no fine-tunes of one parent: {worst}",
            where=", ".join(m.title for m in members),
            fix="use --strategy weighted, which combines outputs instead of weights",
        )
    keep, current = [best], found[best]
    for k in fits:
        tried = score(mean_model(members, (*keep, k)))
        if tried.squared_error <= current.squared_error:
            keep.append(k)
            current = tried
        else:
            notes.append(
                Note(
                    members[k].title,
                    "left out",
                    f"with it the squared error is {tried.squared_error:.4g} instead of {current.squared_error:.4g}",
                )
            )
    return Recipe(tuple(keep), current.metric, scores, tuple(notes))


def _weights(first: Member, second: Member) -> dict[str, tuple[ir.Value, ir.Value]]:
    """Name of each weight of the first -> it and the weight in the same place of the second."""
    return {a.name or "": (a, b) for a, b in _pairs(first, second)}


def _pairs(first: Member, second: Member) -> Iterator[tuple[ir.Value, ir.Value]]:
    """The constants in the same places of two models, each once.

    Raises:
        ModelError: The graphs differ.
    """
    seen: dict[int, int] = {}
    all_graphs = list(graphs(first.model)), list(graphs(second.model))
    if len(all_graphs[0]) != len(all_graphs[1]):
        raise _unlike(first, second, "they have different bodies or functions")
    for one, two in zip(*all_graphs, strict=True):
        if len(one) != len(two):
            raise _unlike(first, second, f"they have {len(one)} and {len(two)} nodes")
        for a, b in zip(one, two, strict=True):
            if a.op_identifier() != b.op_identifier() or len(a.inputs) != len(b.inputs):
                raise _unlike(first, second, f"node {label(a)!r} is {a.op_type}, and in the other {b.op_type}")
            _compare_attributes(first, second, a, b)
            for x, y in zip(a.inputs, b.inputs, strict=True):
                if (x is None) != (y is None):
                    raise _unlike(first, second, f"node {label(a)!r} has an optional input in one of them only")
                if x is None or y is None:
                    continue
                if (constant(x) is None) != (constant(y) is None) or seen.get(id(x), id(y)) != id(y):
                    raise _unlike(first, second, f"node {label(a)!r} reads {x.name!r}, and in the other {y.name!r}")
                if id(x) not in seen:
                    seen[id(x)] = id(y)
                    if constant(x) is not None:
                        yield x, y
            for x, y in zip(a.outputs, b.outputs, strict=False):
                seen[id(x)] = id(y)


def _compare_attributes(first: Member, second: Member, a: ir.Node, b: ir.Node) -> None:
    for name in {**a.attributes, **b.attributes}:
        one, two = a.attributes.get(name), b.attributes.get(name)
        if one is not None and one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            continue
        if a.op_type == "Constant" and name == "value":
            continue
        if one is None or two is None or one.type != two.type or str(one.value) != str(two.value):
            raise _unlike(first, second, f"attribute {name!r} of node {label(a)!r} differs")


def _kind(tensor: ir.TensorProtocol) -> str:
    return f"{tensor.dtype.name.lower()}{list(tensor.shape.numpy())}"


def _unlike(first: Member, second: Member, why: str) -> ModelError:
    return ModelError(
        f"the models have no common graph: {why}",
        where=f"{first.title} and {second.title}",
        fix="a soup is for fine-tunes of one parent, exported alike; use --strategy weighted for others",
    )
