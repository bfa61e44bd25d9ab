"""The content of a model in memory as one short key, without writing it."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import numpy as np
import onnx_ir as ir

from onnxopt.core.external import initializers
from onnxopt.core.proto import to_proto
from onnxopt.core.query import Model
from onnxopt.core.tensors import content_key

__all__ = ["fingerprint"]

_digests: WeakKeyDictionary[ir.TensorProtocol, bytes] = WeakKeyDictionary()
"""Clones share tensors, which never change: each is read once."""


def fingerprint(model: Model) -> str:
    """Hex digest of graph and weights; equal models have equal ones, in other processes too."""
    copy = model.clone()
    for value, tensor in list(initializers(copy)):
        value.const_value = ir.tensor(np.frombuffer(_digest(tensor), np.uint8), name=tensor.name)
    return hashlib.sha256(to_proto(copy).SerializeToString(deterministic=True)).hexdigest()


def _digest(tensor: ir.TensorProtocol) -> bytes:
    known = _digests.get(tensor)
    if known is None:
        dtype, shape, content = content_key(tensor)
        known = _digests[tensor] = hashlib.sha256(f"{dtype} {shape} {content!r}".encode()).digest()
    return known
