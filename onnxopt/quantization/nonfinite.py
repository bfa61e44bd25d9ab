"""NaN and infinity among the constants of a model: what comes out of it, and of any form of it, is then no number."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, label, nodes
from onnxopt.core.report import Note
from onnxopt.core.tensors import borrow
from onnxopt.passes.constants import FLOATS, tensor_of
from onnxopt.quantization.recurrent import RECURRENT
from onnxopt.quantization.select import COMPUTE

__all__ = ["nonfinite_constants"]


def nonfinite_constants(model: Model) -> tuple[Note, ...]:
    """One note for each such constant, with the node that reads it; infinity counts in weights only, not in masks."""
    found: dict[str, Note] = {}
    seen: set[ir.Value] = set()
    for node in nodes(model):
        is_layer = node.domain == "" and node.op_type in COMPUTE | RECURRENT
        for value in node.inputs:
            tensor = None if value is None or value in seen else tensor_of(value)
            if value is None or tensor is None or tensor.dtype not in FLOATS:
                continue
            if is_layer:
                seen.add(value)
            with borrow(tensor) as array:
                wrong = array[~np.isfinite(array)] if is_layer else array[np.isnan(array)]
            if wrong.size:
                name = value.name or "?"
                values = "NaN or infinite values" if is_layer else "NaN"
                reason = f"{wrong.size} of {array.size} are {values}, and {label(node)!r} reads them"
                found.setdefault(name, Note(f"constant {name!r}", "not finite", reason))
    return tuple(found.values())
