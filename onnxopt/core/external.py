"""External data of a model file: where it may lie, whether it is complete.

The containment rule is ONNX Runtime's: a data file must lie, links resolved, below the folder of the model path or
below the folder of the file that path resolves to. So the link farms of model caches load, and a path that climbs out
is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxopt.core.query import Model, graphs, nodes
from onnxopt.core.tensors import read
from onnxopt.errors import ModelError

__all__ = ["initializers", "locations", "resolve"]


def resolve(model: Model, path: Path) -> None:
    """Checks all external tensors; those of initializers stay on disk, the few in attributes are read."""
    for value, tensor in list(initializers(model)):
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = _checked(tensor, path)
    for node in nodes(model):
        for attribute in list(node.attributes.values()):
            if attribute.is_ref() or attribute.type != ir.AttributeType.TENSOR:
                continue
            tensor = attribute.as_tensor()
            if isinstance(tensor, ir.ExternalTensor):
                values = ir.Tensor(read(_checked(tensor, path)), dtype=tensor.dtype, name=tensor.name)
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, values)


def locations(proto: onnx.ModelProto, path: Path) -> set[Path]:
    """The data files that ``proto``, read from ``path``, refers to.

    Raises:
        ModelError: One of them is missing or outside the model's folder.
    """
    found: set[Path] = set()
    for tensor in _external_protos(proto):
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        found.add(_contained(path, location, tensor.name))
    return found


def initializers(model: Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """All initializers of all graphs with their tensors."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def _checked(tensor: ir.ExternalTensor, path: Path) -> ir.ExternalTensor:
    file = _contained(path, tensor.path, tensor.name)  # the base folder is not set, so this is the location as written
    if tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED) or (tensor.offset or 0) < 0:
        raise ModelError(
            f"external data that cannot be: {tensor.dtype.name.lower()} at offset {tensor.offset or 0}",
            where=f"{path}, tensor {tensor.name!r} in {file.name}",
            fix="export the model again",
        )
    offset, needed = tensor.offset or 0, tensor.nbytes
    available = file.stat().st_size - offset
    if available < needed or (tensor.length is not None and tensor.length != needed):
        raise ModelError(
            f"external data of the wrong length: {needed} bytes needed, {max(available, 0)} in the file, "
            f"length field {'unset' if tensor.length is None else tensor.length}",
            where=f"{path}, tensor {tensor.name!r} in {file.name}",
            fix="copy the model together with its data file again",
        )
    # An absolute location with an empty base folder: our own checks above stand in for those of onnx_ir,
    # which refuse every link that leaves the folder and every file with a second hard link.
    return ir.ExternalTensor(str(file), offset, needed, tensor.dtype, shape=tensor.shape, name=tensor.name, base_dir="")


def _contained(path: Path, location: str, tensor: str) -> Path:
    folder = path.absolute().parent
    roots = (Path(os.path.realpath(folder)), Path(os.path.realpath(path)).parent)
    file = Path(os.path.realpath(folder / location))
    lexical = Path(os.path.normpath(folder / location))
    climbs = Path(location).is_absolute() or folder not in lexical.parents
    if not location or climbs or not any(root in file.parents for root in roots):
        raise ModelError(
            f"external data outside the model's folder is refused: {location!r}",
            where=f"{path}, tensor {tensor!r}",
            fix="put the data file beside the model and save the model with a plain file name as location",
        )
    if not file.is_file():
        raise ModelError(
            f"external data file {location!r} is missing",
            where=f"{path}, tensor {tensor!r}",
            fix="copy the data file into the model's folder",
        )
    return file


def _external_protos(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    from onnx.external_data_helper import uses_external_data

    def of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
        yield from graph.initializer
        yield from of_nodes(graph.node)

    def of_nodes(items: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
        for node in items:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                    yield from of_graph(graph)

    tensors = [*of_graph(proto.graph)]
    for function in proto.functions:
        tensors.extend(of_nodes(function.node))
    return (t for t in tensors if uses_external_data(t))
