"""Element types of ONNX as torch computes them, and arrays on their way in and out.

torch computes on no unsigned integers but uint8, so the wider ones are held in the next wider signed type, those of 4
and 2 bits in 8, and the floats of 8 bits and fewer in float32. What leaves the graph is cast to the type it declares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnxopt.core.tensors import Array
from onnxopt.errors import ModelError

__all__ = ["INTEGER_RANGE", "Types", "array_of", "floats", "integers", "norm", "tensor_from"]

_D = ir.DataType
_TYPES: dict[ir.DataType, torch.dtype] = {
    _D.BOOL: torch.bool,
    _D.FLOAT: torch.float32,
    _D.DOUBLE: torch.float64,
    _D.FLOAT16: torch.float16,
    _D.BFLOAT16: torch.bfloat16,
    _D.INT8: torch.int8,
    _D.INT16: torch.int16,
    _D.INT32: torch.int32,
    _D.INT64: torch.int64,
    _D.UINT8: torch.uint8,
    _D.UINT16: torch.int32,
    _D.UINT32: torch.int64,
    _D.UINT64: torch.int64,
    _D.INT4: torch.int8,
    _D.UINT4: torch.uint8,
    _D.INT2: torch.int8,
    _D.UINT2: torch.uint8,
}
INTEGER_RANGE: dict[ir.DataType, tuple[int, int]] = {
    _D.INT2: (-2, 1),
    _D.UINT2: (0, 3),
    _D.INT4: (-8, 7),
    _D.UINT4: (0, 15),
    _D.INT8: (-128, 127),
    _D.UINT8: (0, 255),
    _D.INT16: (-32768, 32767),
    _D.UINT16: (0, 65535),
    _D.INT32: (-(1 << 31), (1 << 31) - 1),
    _D.UINT32: (0, (1 << 32) - 1),
}
"""Smallest and largest code of the types that values are quantized to."""
_HALVES = (torch.float16, torch.bfloat16)


class Types:
    """Which torch type stands for which ONNX type.

    Args:
        promote: Compute what the graph has in 16-bit floats in float32: training needs the digits.
    """

    def __init__(self, *, promote: bool = False) -> None:
        self.promote = promote

    def of(self, kind: ir.DataType, where: str) -> torch.dtype:
        """The torch type.

        Raises:
            ModelError: There is none (strings, complex numbers, floats of 8 bits and fewer).
        """
        found = _TYPES.get(kind)
        if found is None:
            raise ModelError(
                f"values of type {kind.name} cannot be trained through",
                where=where,
                fix="give a model whose values are numbers of 16 bits and more, or integers",
            )
        return torch.float32 if self.promote and found in _HALVES else found

    def tensor(self, tensor: ir.TensorProtocol, where: str) -> Tensor:
        """A copy of the values of ``tensor``.

        Raises:
            ModelError: torch has no such type.
        """
        kind = self.of(tensor.dtype, where)
        return tensor_from(tensor.numpy()).to(kind)

    def array(self, array: Array) -> Tensor:
        """A copy of an input of the graph.

        Raises:
            ModelError: torch has no such type.
        """
        self.of(ir.DataType.STRING if array.dtype.kind in "OUS" else ir.DataType.from_numpy(array.dtype), "an input")
        made = tensor_from(array)
        return made.float() if self.promote and made.dtype in _HALVES else made


def tensor_from(array: Array) -> Tensor:
    """A copy of ``array`` in the type that stands for its own; small types of ``ml_dtypes`` included."""
    kind = array.dtype
    if kind.name == "bfloat16":
        return _from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    if kind.name in ("uint16", "uint32", "uint64"):
        return _from_numpy(array.astype(np.int32 if kind.name == "uint16" else np.int64))
    if kind.type.__module__ != "numpy":
        small = np.uint8 if kind.name.startswith("uint") else np.int8 if kind.name.startswith("int") else np.float32
        return _from_numpy(array.astype(small))
    return _from_numpy(np.array(array))


def array_of(value: Tensor, kind: ir.DataType | None) -> Array:
    """The array of ``value`` in the ONNX type ``kind`` (``None``: as it is)."""
    if value.dtype == torch.bfloat16:
        value = value.float()
    array = cast(Array, value.detach().cpu().numpy())
    wanted = None if kind is None else kind.numpy()
    return array if wanted is None or array.dtype == wanted else array.astype(wanted)


def integers(value: Tensor) -> list[int]:
    """The elements of an integer tensor, as Python numbers."""
    flat = cast("Callable[[], list[int]]", value.reshape(-1).tolist)  # pyright: ignore[reportUnknownMemberType]
    return flat()


def floats(value: Tensor) -> list[float]:
    """The elements of a tensor, as Python numbers."""
    flat = cast("Callable[[], list[float]]", value.double().reshape(-1).tolist)  # pyright: ignore[reportUnknownMemberType]
    return flat()


def norm(x: Tensor, p: float, axes: int | list[int], *, keep: bool) -> Tensor:
    """The p-norm over axes."""
    return torch.linalg.vector_norm(x, p, axes, keep)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _from_numpy(array: Array) -> Tensor:
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    return torch.from_numpy(plain).reshape(array.shape)  # pyright: ignore[reportUnknownMemberType]
