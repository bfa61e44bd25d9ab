"""How much the loss on labelled samples depends on each unit of a group: the diagonal of the empirical Fisher matrix.

Source: Theis et al. 2018, https://arxiv.org/abs/1801.05787: taking out the unit ``c`` raises the loss by
about ``mean_n (dL_n / dm_c)^2 / 2``, where ``m_c`` is a mask that multiplies the unit, here right behind the linear
nodes that make it: ``dL / dm_c = sum(w dL / dw)`` over the weights and biases of the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError
from onnxopt.passes.base import Context
from onnxopt.recover.bridge.module import Bridge
from onnxopt.recover.bridge.types import tensor_from
from onnxopt.recover.choices import check_labels, choose_heads
from onnxopt.recover.losses import label_loss
from onnxopt.recover.options import Training
from onnxopt.recover.trainer import deterministic

__all__ = ["Part", "fisher"]

SAMPLES = 256
"""At most so many are looked at, one after the other."""
LOOKED_AT = 16
"""What the output holds is told from so many."""


@dataclass(frozen=True, eq=False)
class Part:
    """A constant that makes units of a group.

    Attributes:
        constant: Its name.
        axis: The axis of the units.
        units: For each position along it the place of its unit in the group, or -1.
    """

    constant: str
    axis: int
    units: Array


def fisher(
    model: Model, groups: Sequence[tuple[int, Sequence[Part]]], data: Dataset, output: str, ctx: Context
) -> list[Array]:
    """A score for each unit of each group, (units,) float64.

    Args:
        model: The float model; it is not changed.
        groups: Number of units of each group, and what makes them.
        data: Samples with labels.
        output: Name of the output that the labels belong to.
        ctx: Target, seed, progress.

    Raises:
        DataError: A sample has no label, or one that does not fit.
        ModelError: The graph has an operator without gradients.
    """
    few = data.take(range(min(len(data), SAMPLES)))
    bridge = Bridge(model, outputs=[output])
    said = [bridge.run(few[i].feeds) for i in range(min(len(few), LOOKED_AT))]
    head = choose_heads([output], said, Training())[0][0]
    check_labels(head, said[0][output], few)
    weights = {w.name: w.parameter for w in bridge.weights}
    read = [name for name in dict.fromkeys(p.constant for _, parts in groups for p in parts) if name in weights]
    scores = [np.zeros(count) for count, _ in groups]
    with deterministic(ctx.target.threads, ctx.seed), ctx.progress.task("Fisher information", len(few)) as advance:
        for index in range(len(few)):
            sample = few[index]
            if sample.labels is None:
                raise DataError("a sample has no labels", where=f"{data.source}, sample {index}", fix="label all")
            found = bridge(bridge.feed(sample.feeds))[output]
            loss = label_loss(head, found, tensor_from(np.atleast_1d(sample.labels)))
            slopes = torch.autograd.grad(loss, [weights[name] for name in read], materialize_grads=True)
            by_name = {
                name: (weights[name].detach() * slope).double().numpy()
                for name, slope in zip(read, slopes, strict=True)
            }
            for score, (count, parts) in zip(scores, groups, strict=True):
                score += sum((_masks(by_name[p.constant], p, count) for p in parts if p.constant in by_name), 0.0) ** 2
            advance(1)
    return [score / (2 * len(few)) for score in scores]


def _masks(products: Array, part: Part, count: int) -> Array:
    """``dL / dm`` of each unit through one constant."""
    sums = products.sum(axis=tuple(i for i in range(products.ndim) if i != part.axis))
    own = part.units >= 0
    return np.bincount(part.units[own], sums[own], count)
