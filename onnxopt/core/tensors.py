"""Reading and making weights without keeping files open or holding what is not needed.

``onnx_ir`` memory-maps an external tensor on first read and keeps the map and its file descriptor until ``release()``;
400 such tensors under ``ulimit -n 256`` fail. ``borrow`` bounds that to one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["Array", "borrow", "content_key", "read", "tensor_bytes"]

Array = np.ndarray[Any, Any]


@contextmanager
def borrow(tensor: ir.TensorProtocol) -> Generator[Array]:
    """A read-only view of the values of ``tensor``, valid inside the ``with`` block.

    Yields:
        Array of the tensor's shape; 4-bit types come as ``ml_dtypes`` arrays, strings as objects.
    """
    try:
        yield tensor.numpy()
    finally:
        if isinstance(tensor, ir.ExternalTensor):
            _release(tensor)


def read(tensor: ir.TensorProtocol) -> Array:
    """A copy of the values of ``tensor`` that may be kept and changed."""
    with borrow(tensor) as array:
        return np.array(array)


def content_key(tensor: ir.TensorProtocol) -> tuple[object, ...]:
    """Equal for two tensors exactly when type, shape and all bytes are equal (but for a SHA-256 collision)."""
    digest = hashlib.sha256()
    if tensor.dtype == ir.DataType.STRING:  # as an array it would lose zero bytes at the end
        for item in ir.serde.serialize_tensor(tensor).string_data:
            digest.update(len(item).to_bytes(8, "little") + item)
    else:
        with borrow(tensor) as array:
            digest.update(array.tobytes())
    return (tensor.dtype, tuple(int(size) for size in tensor.shape.numpy()), digest.digest())


def tensor_bytes(tensor: ir.TensorProtocol) -> int:
    """Bytes of the stored values (strings: of their characters)."""
    if tensor.dtype == ir.DataType.STRING:
        return sum(len(item) for item in tensor.numpy().ravel().tolist())
    return tensor.nbytes


def _release(tensor: ir.ExternalTensor) -> None:
    try:
        tensor.release()
    except BufferError:
        # The borrower still holds a view. Dropping our reference closes the map when that view dies.
        tensor.raw = None
