"""What a CNN costs, and the least cut that keeps a share of it: for pruners that only take a share of the channels.

Imports numpy and onnx only, so that it works in every peer's environment.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import onnx
from onnx import shape_inference

STEPS = 12
MOST = 0.98
"""Largest share of the channels that is tried."""
WEIGHTED = ("Conv", "Gemm", "MatMul")

Cut = Callable[[float], onnx.ModelProto]
"""Share of the channels to remove -> the model."""


def count(model: onnx.ModelProto, kind: str) -> int:
    """Return the multiplications of one sample, or the parameters, of layers with constant weights."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    if kind == "params":
        return sum(prod(dims) for dims in weights.values())
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]  # may be from before the cut
    inferred = shape_inference.infer_shapes(bare).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.value_info, *inferred.output)}
    total = 0
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in weights:
            positions = prod(shapes[node.output[0]][2:]) if node.op_type == "Conv" else 1
            total += prod(weights[node.input[1]]) * positions
    return total


def least_cut(model: onnx.ModelProto, cut: Cut, kind: str, ratio: float) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the cut model that costs at most `ratio` of `model` and is nearest to it, and what was found.

    Raises:
        ValueError: Even the most is not enough.
    """
    whole = count(model, kind)
    low, high = 0.0, MOST
    best, least = None, 1.0
    for step in range(STEPS):
        share = high if step == 0 else (low + high) / 2
        found = cut(share)
        cost = count(found, kind) / whole
        least = min(least, cost)
        if cost <= ratio:
            high = share
            if best is None or cost > best[1]["share"]:
                best = found, {"removed": share, "share": cost, "kind": kind}
        elif step == 0:
            raise ValueError(f"it keeps {cost:.3f} of the {kind} where it is to remove {MOST:g} of the channels")
        else:
            low = share
    if best is None:
        raise ValueError(f"the least that it keeps of the {kind} is {least:.3f}")
    return best
