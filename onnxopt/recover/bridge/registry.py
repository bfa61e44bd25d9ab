"""All operators that the trainer knows: importing this module registers them."""

from __future__ import annotations

from onnxopt.recover.bridge.ops import (
    attention,
    blocks,
    convolution,
    elementwise,
    generate,
    indexing,
    matmul,
    normalization,
    planes,
    pooling,
    quantize,
    recurrent,
    reduction,
    resize,
    shape,
)
from onnxopt.recover.bridge.site import OPERATORS

__all__ = ["known"]

MODULES = (
    attention,
    blocks,
    convolution,
    elementwise,
    generate,
    indexing,
    matmul,
    normalization,
    planes,
    pooling,
    quantize,
    recurrent,
    reduction,
    resize,
    shape,
)


def known(domain: str = "") -> tuple[str, ...]:
    """Names of the operators of a domain, sorted."""
    return tuple(sorted(name for place, name in OPERATORS if place == domain))
