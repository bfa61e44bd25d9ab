"""The names of all passes, what each does in one line, and how to make one; nothing is imported until one is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from onnxopt.errors import UsageError, nearest

if TYPE_CHECKING:
    from onnxopt.passes.base import Pass

__all__ = ["CLEANUP", "OPTIMIZE", "REWRITES", "Entry", "create", "names", "summary"]


@dataclass(frozen=True)
class Entry:
    """Where a pass is defined (``module:class``), and what it does in one line."""

    target: str
    summary: str


PASSES: Mapping[str, Entry] = {
    "fold-constants": Entry(
        "onnxopt.passes.cleanup.fold:FoldConstants", "compute what depends on constants only, without growing the file"
    ),
    "remove-no-ops": Entry(
        "onnxopt.passes.cleanup.noops:RemoveNoOps", "drop Identity, Dropout, and casts and reshapes that change nothing"
    ),
    "fold-pad": Entry("onnxopt.passes.fusion.pad:FoldPad", "fold a zero Pad into the Conv behind it"),
    "fold-batch-norm": Entry(
        "onnxopt.passes.fusion.batch_norm:FoldBatchNorm", "fold BatchNormalization into the operator in front of it"
    ),
    "fold-affine": Entry(
        "onnxopt.passes.fusion.affine:FoldAffine",
        "fold Mul, Add, Sub, Div by constants into the Conv in front",
    ),
    "reorder-gelu": Entry(
        "onnxopt.passes.fusion.gelu:ReorderGelu", "write Gelu in the order of products that the runtime fuses"
    ),
    "common-subexpressions": Entry(
        "onnxopt.passes.cleanup.common:CommonSubexpressions", "compute equal expressions once"
    ),
    "deduplicate-initializers": Entry(
        "onnxopt.passes.cleanup.duplicates:DeduplicateInitializers", "store equal weights once"
    ),
    "remove-unused": Entry(
        "onnxopt.passes.cleanup.unused:RemoveUnused", "drop nodes, weights and functions that no output needs"
    ),
    "freeze-defaults": Entry(
        "onnxopt.passes.cleanup.freeze:FreezeDefaults",
        "make inputs that have a default value constant",
    ),
    "inline-functions": Entry(
        "onnxopt.passes.rewrite.inline:InlineFunctions", "put the bodies of local functions where they are called"
    ),
    "matmul-add-to-gemm": Entry(
        "onnxopt.passes.rewrite.linear:MatMulAddToGemm", "write MatMul and the bias behind it as one Gemm"
    ),
    "conv-transpose-to-conv": Entry(
        "onnxopt.passes.rewrite.upsample:ConvTransposeToConv",
        "write ConvTranspose with kernel = stride as a Conv and DepthToSpace",
    ),
    "einsum-to-matmul": Entry(
        "onnxopt.passes.rewrite.einsum:EinsumToMatMul", "write Einsum of a value and a constant as MatMul"
    ),
    "plain-matmul": Entry(
        "onnxopt.passes.rewrite.matmul:PlainMatMul", "bring the constant of MatMul to the right, as a matrix"
    ),
    "plain-gemm": Entry(
        "onnxopt.passes.rewrite.gemm:PlainGemm", "fold factors, transposition and odd biases out of Gemm"
    ),
}

CLEANUP = (
    "fold-constants",
    "remove-no-ops",
    "common-subexpressions",
    "deduplicate-initializers",
    "remove-unused",
)
"""Passes that keep every output bit for bit, in the order in which they help each other."""
REWRITES = (
    "inline-functions",
    "conv-transpose-to-conv",
    "einsum-to-matmul",
    "plain-matmul",
    "plain-gemm",
    "matmul-add-to-gemm",
)
"""Other forms of the same computation: worth it only where a kernel gains, so each must be asked for."""
OPTIMIZE = tuple(name for name in PASSES if name not in {"freeze-defaults", *REWRITES})
"""What ``optimize`` runs when nothing else is asked for."""


def names() -> tuple[str, ...]:
    """All pass names, in the order in which ``optimize`` runs them."""
    return tuple(PASSES)


def summary(name: str) -> str:
    """What the pass does, in one line.

    Raises:
        UsageError: There is no pass of that name.
    """
    return _entry(name).summary


def create(name: str, **options: Any) -> Pass:
    """The pass of that name with these options.

    Raises:
        UsageError: There is no pass of that name, it has no such option, or it refuses the value.
    """
    module, _, attribute = _entry(name).target.partition(":")
    class_: Any = getattr(import_module(module), attribute)
    known = [field.name for field in fields(class_)]
    for option in options:
        if option not in known:
            raise UsageError(
                f"pass {name!r} has no option {option!r}", where=f"pass {name}", fix=nearest(option, known)
            )
    return cast("Pass", class_(**options))


def _entry(name: str) -> Entry:
    try:
        return PASSES[name]
    except KeyError:
        raise UsageError(f"there is no pass {name!r}", where="--passes", fix=nearest(name, PASSES)) from None
