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
from onnxopt.recover.bridge.site import OPERATORS, Build, Site

__all__ = ["find", "known"]

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


def find(site: Site) -> Build:
    """The function for the operator of a node in the version that the model uses.

    Raises:
        ModelError: There is none.
    """
    node = site.node
    domain = "" if node.domain == "ai.onnx" else node.domain
    versions = OPERATORS.get((domain, node.op_type), {})
    fitting = [since for since in versions if since <= site.version]
    if not fitting:
        name = f"{domain}.{node.op_type}" if domain else node.op_type
        since = f" before opset {min(versions)}" if versions else ""
        raise site.refuse(
            f"the operator {name}{since} is not known to the trainer",
            "train a model without it; `onnxopt optimize` may fold it away",
        )
    return versions[max(fitting)]
