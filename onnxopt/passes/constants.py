"""What passes need to know before they touch a weight: its value, who else reads it, what its node's attributes say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, constant
from onnxopt.core.tensors import Array, read

__all__ = [
    "FLOATS",
    "KEEP",
    "array_of",
    "int_attribute",
    "is_op",
    "is_random",
    "reason_not_constant",
    "scopes",
    "single_reader",
    "tensor_of",
]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""Element types in which weights may be folded: computed in float64, then cast back."""

KEEP = "onnxopt.keep"
"""Key of the metadata of a node that looks useless and is not, with the reason."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of these operators of the default domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a value that cannot change at run time, with all forms of Constant (a sparse one excepted)."""
    known = constant(value)
    if known is not None or value is None or value.is_graph_input():
        return known
    producer = value.producer()
    if producer is None or not is_op(producer, "Constant"):
        return None
    for name, attribute in producer.attributes.items():
        if attribute.is_ref():
            return None
        match name:
            case "value_float":
                return ir.tensor(np.array(attribute.as_float(), np.float32))
            case "value_floats":
                return ir.tensor(np.array(attribute.as_floats(), np.float32))
            case "value_int":
                return ir.tensor(np.array(attribute.as_int(), np.int64))
            case "value_ints":
                return ir.tensor(np.array(attribute.as_ints(), np.int64))
            case _:
                continue
    return None


def array_of(value: ir.Value | None) -> Array | None:
    """A copy of the constant's array, ``None`` when the value is no constant."""
    tensor = tensor_of(value)
    return None if tensor is None else read(tensor)


def reason_not_constant(value: ir.Value | None) -> str:
    """Why a weight that was expected to be constant is not."""
    if value is None:
        return "is missing"
    if value.is_graph_input():
        return "is a graph input" + (
            " (its value is only a default, see freeze-defaults)" if value.is_initializer() else ""
        )
    producer = value.producer()
    return f"is computed by {producer.op_type}" if producer is not None else "has no value in the file"


def single_reader(value: ir.Value) -> ir.Node | None:
    """The only node that reads ``value``, once; ``None`` when there are more, or it is a graph output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def int_attribute(node: ir.Node, name: str, default: int) -> int | None:
    """An integer attribute or its default; ``None`` when a function's caller decides it."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    return None if attribute.is_ref() else attribute.as_int()


def scopes(model: Model) -> Iterator[tuple[ir.Graph, int]]:
    """Each graph at all depths with the version of the default operator set that rules in it."""
    roots: list[tuple[ir.Graph, Mapping[str, int]]] = [(model.graph, model.opset_imports)]
    roots += [(function.graph, function.opset_imports) for function in model.functions.values()]
    for root, imports in roots:
        version = max(imports.get("", 0), imports.get("ai.onnx", 0))
        yield root, version
        for graph in root.subgraphs():
            yield graph, version


def is_random(node: ir.Node) -> bool:
    """Whether two runs of the node, or two copies of it, may give different values."""
    if node.domain != "":
        return False
    if node.op_type == "Dropout":
        return (len(node.inputs) > 2 and node.inputs[2] is not None) or "is_test" in node.attributes
    return node.op_type in RANDOM
