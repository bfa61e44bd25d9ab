"""Loading and saving model files, with every limit of ``onnx_ir`` and protobuf kept inside this file.

Loading checks the external data (presence, length, containment) before anything is read. Saving is atomic: a killed
process leaves the old file or the new one. Weights move to one external file when the model would pass protobuf's 2 GB
limit; that file carries its content hash in its name, so that the previous pair stays valid until the model file itself
is replaced, and a save that is killed at any moment leaves a pair that loads. What it may leave beside that, the next
save removes.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError
from onnx import helper, numpy_helper

from onnxopt.core.atomic import check_writable, pending, remove_abandoned, write_atomic
from onnxopt.core.external import initializers, locations, resolve
from onnxopt.core.leftovers import HASH_LENGTH, is_own_name, leftovers
from onnxopt.core.proto import from_proto, to_proto
from onnxopt.core.query import Model
from onnxopt.core.tensors import borrow, read, tensor_bytes
from onnxopt.errors import ModelError, OutputError

__all__ = [
    "EXTERNAL_THRESHOLD",
    "content_hash",
    "data_files",
    "load",
    "own_data_files",
    "save",
    "save_scratch",
    "total_bytes",
]

EXTERNAL_THRESHOLD = 1_800_000_000
"""Weights above this many bytes go to an external file; protobuf cannot write a message of 2**31 bytes."""
OPTIONAL_INPUTS = 4
"""The IR version since which an initializer need not be an input."""
ALIGNMENT = 64
KEEP_INLINE = 1024
"""Tensors up to this many bytes stay in the model file even when the rest is external."""


def load(path: Path) -> Model:
    """The model in the file at ``path``; weights in external files stay there until they are read.

    Raises:
        ModelError: The file or one of its data files is missing, damaged or not allowed.
    """
    proto = _read_proto(path)
    _normalize(proto)
    try:
        model = from_proto(proto)
    except Exception as error:  # onnx_ir raises whatever its deserializer met
        raise ModelError(
            f"this is not a valid ONNX model: {error}", where=str(path), fix="export the model again"
        ) from error
    if not model.graph.outputs:
        raise ModelError("the model has no outputs", where=str(path), fix="export the model again")
    resolve(model, path)
    return model


def save(model: Model, path: Path, *, threshold: int = EXTERNAL_THRESHOLD) -> None:
    """Writes ``model`` to ``path`` atomically; ``model`` itself is unchanged and stays usable.

    Args:
        model: The model.
        path: An absolute or relative file path; its folder must exist.
        threshold: Weights above this many bytes in total go to ``<stem>.<hash>.data`` beside the file.

    Raises:
        OutputError: The folder is missing or not writable, or the disk is full.
    """
    _save(model, path, threshold, durable=True)


def save_scratch(model: Model, path: Path) -> None:
    """``save`` for a file in a working folder, which nobody misses after a power cut: it is not flushed to disk."""
    _save(model, path, EXTERNAL_THRESHOLD, durable=False)


def _save(model: Model, path: Path, threshold: int, *, durable: bool) -> None:
    path = check_writable(path)
    if total_bytes(model) > threshold:
        _save_external(model, path, durable=durable)
    else:
        write_atomic(path, _payload(_inlined(model), path), durable=durable)
    for old in leftovers(path):
        remove_abandoned(old)


def total_bytes(model: Model) -> int:
    """Bytes of all initializers, those of nested graphs included (each tensor object counted once)."""
    return sum(tensor_bytes(t) for t in {id(t): t for _, t in initializers(model)}.values())


def data_files(path: Path) -> tuple[Path, ...]:
    """The files that make up the model at ``path``: itself, then its external data files, sorted."""
    proto = _read_proto(path)
    return (path, *sorted(locations(proto, path)))


def content_hash(path: Path) -> str:
    """Hex SHA-256 of the model file; with external data, of the digests of all its files."""
    digests: list[str] = []
    for file in data_files(path):
        with file.open("rb") as stream:
            digests.append(_sha256(stream))
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _read_proto(path: Path) -> onnx.ModelProto:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ModelError(f"the model is {kind}", where=str(path), fix="name the .onnx file itself")
        payload = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the model cannot be read: {error.strerror}", where=str(path), fix="check the path and the permissions"
        ) from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(payload)
    except DecodeError as error:
        raise ModelError(
            "this is not an ONNX file, or it is truncated",
            where=f"{path} ({len(payload)} bytes)",
            fix="export or copy the model again; a file kept by Git LFS may be only a pointer",
        ) from error
    if not proto.HasField("graph") or proto.ir_version == 0:
        raise ModelError(
            "the file holds no ONNX graph", where=f"{path} ({len(payload)} bytes)", fix="export or copy the model again"
        )
    return proto


def _normalize(proto: onnx.ModelProto) -> None:
    """Undoes three legal spellings: sparse initializers, ``ai.onnx`` for ``""``, initializers that must be inputs.

    Before IR version 4 every initializer is listed as a graph input, which says nothing; since then it means that a
    caller may replace it.
    """
    if proto.ir_version < OPTIONAL_INPUTS:
        constants = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
        inputs = [value for value in proto.graph.input if value.name not in constants]
        del proto.graph.input[:]
        proto.graph.input.extend(inputs)
        proto.ir_version = OPTIONAL_INPUTS
    for sparse in proto.graph.sparse_initializer:
        dense = np.zeros(tuple(sparse.dims), dtype=numpy_helper.to_array(sparse.values).dtype)
        indices = numpy_helper.to_array(sparse.indices)
        positions = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), dense.shape)
        dense.flat[positions] = numpy_helper.to_array(sparse.values)
        proto.graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
    del proto.graph.sparse_initializer[:]
    default = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    others = [(o.domain, o.version) for o in proto.opset_import if o.domain not in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend(
        helper.make_opsetid(d, v) for d, v in [*([("", max(default))] if default else []), *others]
    )


def own_data_files(path: Path) -> set[Path]:
    """The data files of the model at ``path`` that a ``save`` has made."""
    try:
        # Reading the model takes long, and there is no need where no file has such a name.
        if not any(is_own_name(f.name, path) for f in path.parent.iterdir()):
            return set()
        files = data_files(path)[1:]
    except (ModelError, OSError):
        return set()
    return {f for f in files if is_own_name(f.name, path)}


def _payload(model: Model, path: Path) -> bytes:
    try:
        return to_proto(model).SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise OutputError(
            f"the model does not fit protobuf's 2 GB limit: {error}",
            where=str(path),
            fix="move weights from Constant nodes to initializers (`onnxopt optimize` does)",
        ) from error


def _inlined(model: Model) -> Model:
    """The model with its external tensors read into memory (a copy when there are any)."""
    if not any(isinstance(t, ir.ExternalTensor) for _, t in initializers(model)):
        return model
    copy = model.clone()
    for value, tensor in list(initializers(copy)):
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.Tensor(read(tensor), dtype=tensor.dtype, name=tensor.name)
    return copy


def _save_external(model: Model, path: Path, *, durable: bool) -> None:
    """Writes the large tensors to a data file beside ``path`` and the rest to ``path``.

    Both are complete on disk before the first gets its name, so that hardly a moment is left in which a killed process
    leaves a data file without its model.
    """
    with pending(path.parent, durable=durable) as data, pending(path.parent, durable=durable) as main:
        copy, location = _externalized(model, path, data.file)
        main.file.write(_payload(copy, path))
        data.flush()
        main.flush()
        target = path.parent / location
        is_new = not target.exists()
        try:
            data.commit(target)
            main.commit(path)
        except BaseException:
            if is_new and not main.is_at(path):  # it may be too late to stop
                target.unlink(missing_ok=True)
            raise


def _externalized(model: Model, path: Path, file: BinaryIO) -> tuple[Model, str]:
    """A copy of the model whose large tensors refer to a data file, written to ``file``, and the name that it needs."""
    copy = model.clone()
    large = [(v, t) for v, t in initializers(copy) if tensor_bytes(t) > KEEP_INLINE and t.dtype != ir.DataType.STRING]
    offsets: dict[int, int] = {}
    for _, tensor in large:
        if id(tensor) in offsets:
            continue
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
        offsets[id(tensor)] = file.tell()
        with borrow(tensor):
            file.write(tensor.tobytes())
    file.seek(0)
    location = f"{path.stem}.{_sha256(file)[:HASH_LENGTH]}.data"
    for value, tensor in large:
        value.const_value = ir.ExternalTensor(
            location,
            offsets[id(tensor)],
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=value.name or "",
        )
    return copy, location
