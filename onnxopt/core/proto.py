"""Between ``onnx.ModelProto`` and ``Model``, keeping the types of values that ``onnx_ir`` cannot express.

Classifiers converted from scikit-learn return a sequence of maps (ZipMap). ``onnx_ir`` has no map type and refuses such
a model, so the types of these graph inputs and outputs are set aside, and put back when the model is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import onnx
import onnx_ir as ir

from onnxopt.core.query import Model

__all__ = ["from_proto", "map_values", "to_proto"]

KEY = "onnxopt.types"


def from_proto(proto: onnx.ModelProto) -> Model:
    """The model in ``proto``, which is changed: types that contain a map are taken out of it."""
    types: dict[str, bytes] = {}
    for value in _values(proto.graph):
        if _has_map(value.type):
            types[value.name] = value.type.SerializeToString(deterministic=True)
            value.ClearField("type")
    model = ir.from_proto(proto)
    if types:
        model.graph.meta[KEY] = types
    return model


def to_proto(model: Model) -> onnx.ModelProto:
    """The protobuf message of ``model``, with the types that were set aside."""
    proto = ir.to_proto(model)
    types = map_values(model)
    for value in _values(proto.graph):
        if value.name in types:
            value.type.ParseFromString(types[value.name])
    return proto


def map_values(model: Model) -> dict[str, bytes]:
    """Names and serialized types of the graph inputs and outputs whose types were set aside."""
    meta = cast("dict[str, dict[str, bytes]]", model.graph.meta)
    return meta.get(KEY, {})


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info


def _has_map(kind: onnx.TypeProto) -> bool:
    match kind.WhichOneof("value"):
        case "map_type":
            return True
        case "sequence_type":
            return _has_map(kind.sequence_type.elem_type)
        case "optional_type":
            return _has_map(kind.optional_type.elem_type)
        case _:
            return False
