"""The first node of an exported graph whose value is not what the framework computes there.

All values that the framework can name are compared in the order of the graph, as many at once as memory allows. A
binary search would need fewer, but misses what a later node hides (a Relu of negative values, a constant branch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxopt.core.io import load
from onnxopt.core.query import label
from onnxopt.core.tensors import Array
from onnxopt.frameworks.parity import differing, distance
from onnxopt.run.session import Feeds
from onnxopt.run.tap import tap
from onnxopt.run.target import Target

__all__ = ["Difference", "first_difference"]


@dataclass(frozen=True)
class Difference:
    """Where an exported graph leaves the framework.

    Attributes:
        node: Name of the first node that differs.
        op_type: Its operator.
        value: Name of the value that it computes.
        how: By how much, in words.
        compared: Values that were compared before it and agree.
        last: The last of them; ``None``: none.
    """

    node: str
    op_type: str
    value: str
    how: str
    compared: int
    last: str | None

    def __str__(self) -> str:
        before = f"the {self.compared} values compared before it agree" if self.compared else "nothing before it agrees"
        until = f", the last at {self.last!r}" if self.last else ""
        return f"node {self.node!r} ({self.op_type}) is the first to differ: {self.how}; {before}{until}"


def first_difference(
    path: Path,
    values: Mapping[str, Array],
    feeds: Feeds,
    target: Target,
    workdir: Path,
    tolerance: float | None = None,
) -> Difference | None:
    """The first difference in graph order; ``None`` where all values that can be compared agree, or there is none.

    Args:
        path: The exported graph as the exporter wrote it.
        values: What the framework computes, by the name of the value in the graph.
        feeds: The call.
        target: Where the graph runs.
        workdir: For intermediate files.
        tolerance: Instead of those that follow from the dtype.
    """
    model = load(path)
    order = [value.name for node in model.graph for value in node.outputs if value.name in values]
    names = [name for name in order if name]
    inputs = {value.name for value in model.graph.inputs}
    fed = {name: array for name, array in feeds.items() if name in inputs}
    nodes = {value.name: node for node in model.graph for value in node.outputs if value.name}
    compared, last = 0, None
    for found in tap(model, names, lambda: [fed], target, workdir):
        for name in (name for name in names if name in found):
            value, expected = found[name], values[name]
            if value.size == expected.size and value.shape != expected.shape and value.ndim != expected.ndim:
                value = value.reshape(expected.shape)  # exporters drop and add axes of size 1
            if differing(value, expected, tolerance):
                node = nodes[name]
                return Difference(label(node), node.op_type, name, _how(value, expected), compared, last)
            compared, last = compared + 1, label(nodes[name])
    return None


def _how(found: Array, expected: Array) -> str:
    if found.shape != expected.shape:
        return f"shape {list(found.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind not in "biuf" or found.dtype.kind not in "biuf":
        return (
            f"{found.dtype.name} instead of {expected.dtype.name}" if found.dtype != expected.dtype else "other texts"
        )
    largest, relative = distance(found, expected)
    share = f"{relative:.2g} of the largest value" if np.isfinite(relative) else "it is not finite where it should be"
    return f"by up to {largest:.3g}, {share}"
