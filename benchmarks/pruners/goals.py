"""What a CNN costs, and the least cut that keeps a share of it: for pruners that only take a share of the channels.

Imports numpy and onnx only, so that it works in every peer's environment.
"""

from collections.abc import Callable
from math import prod
from typing import TypeVar

import onnx
from onnx import shape_inference

STEPS = 12
MOST = 0.9
"""Largest share of the channels that is tried."""
WEIGHTED = ("Conv", "Gemm", "MatMul")

M = TypeVar("M")


def count(model: onnx.ModelProto, kind: str) -> int:
    """Return the multiplications of one sample, or the parameters, of layers with constant weights."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    if kind == "params":
        return sum(prod(dims) for dims in weights.values())
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # may be from before the cut
    inferred = shape_inference.infer_shapes(bare).graph
    values = (*inferred.value_info, *inferred.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    total = 0
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in weights:
            positions = prod(shapes[node.output[0]][2:]) if node.op_type == "Conv" else 1
            total += prod(weights[node.input[1]]) * positions
    return total


def least_cut(cut: Callable[[float], M], share_of: Callable[[M], float], ratio: float) -> tuple[M, dict[str, float]]:
    """Return the model that keeps at most `ratio` of the cost and is nearest to it, and what was found.

    Args:
        cut: Share of the channels to remove -> the model.
        share_of: Its cost as a share of that of the input.
        ratio: What may stay.

    Raises:
        ValueError: Even the most is not enough.
    """
    low, high = 0.0, MOST
    best = cut(high)
    share = share_of(best)
    if share > ratio:
        raise ValueError(f"it keeps {share:.3f} of the cost where it is to remove {MOST:g} of the channels")
    removed = high
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = cut(middle)
        cost = share_of(found)
        low, high = (low, middle) if cost <= ratio else (middle, high)
        if share < cost <= ratio:
            best, share, removed = found, cost, middle
    return best, {"removed": removed, "share": share}
