"""Weights that no pair of which saturates: a coarser grid where it must be, or U8 codes, whose kernel is exact.

"Narrow" weights stay S8. Only output channels with a pair at risk get a larger scale, the smallest one with which the
magnitudes of a pair of one sign add up to 128 at most: less is lost than with 7 bits for all. They cost no time.
"Unsigned" weights are the same codes plus 128 with zero point 128: nothing is lost, but the kernel for U8 with U8 adds
in 32 bits and takes about 4/3 of the instructions on AVX2 (and more than twice the time where there is VNNI).
S8 activations are no way out: ONNX Runtime turns them into U8 on x86, and the sums saturate as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant, label, nodes
from onnxopt.core.tensors import Array
from onnxopt.quantization.portability.pairs import SAFE, as_matrix, risky, worst_sum

__all__ = ["ZERO", "as_unsigned", "narrow_scale", "readers", "stored"]

ZERO = 128
"""Zero point of unsigned weights."""
STORED = re.compile(r"(?P<name>.+)_quantized(_\d+)?")


def narrow_scale(weight: Array, axis: int, scale: Array) -> Array:
    """``scale``, enlarged in the output channels in which a pair of codes could saturate.

    Args:
        weight: Float weight of a Conv, MatMul or Gemm.
        axis: The axis of its output channels.
        scale: Scale of each output channel, (channels,) float32.
    """
    matrix = as_matrix(weight, axis)
    codes = np.rint(np.divide(matrix, scale, out=np.zeros_like(matrix, np.float32), where=scale > 0))
    channels = np.unique(risky(codes.astype(np.int16)).channel)
    found = scale.copy()
    # Rounding adds at most 1/2 to each of the two magnitudes.
    found[channels] = np.maximum(scale[channels], worst_sum(matrix)[channels] / (SAFE - 1))
    return found


def as_unsigned(codes: Array) -> Array:
    """Signed codes as unsigned ones with zero point ``ZERO``."""
    return (codes.astype(np.int16) + ZERO).astype(np.uint8)


def stored(names: Iterable[str], weights: Iterable[str]) -> dict[str, str]:
    """Name of a stored weight -> name of the float weight among ``weights`` that it was made from."""
    known = set(weights)
    found = {name: STORED.fullmatch(name) for name in names}
    return {name: match["name"] for name, match in found.items() if match is not None and match["name"] in known}


def readers(model: Model, op_types: Iterable[str]) -> Mapping[str, list[ir.Node]]:
    """Name of a constant weight -> the nodes of these types that multiply by it."""
    kinds, found = frozenset(op_types), dict[str, list[ir.Node]]()
    for node in nodes(model):
        if node.op_type in kinds and node.domain == "" and len(node.inputs) > 1:
            weight = node.inputs[1]
            if weight is not None and weight.name and constant(weight) is not None:
                found.setdefault(weight.name, []).append(node)
    return {name: sorted(group, key=label) for name, group in found.items()}
