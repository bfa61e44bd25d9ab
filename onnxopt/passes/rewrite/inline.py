"""Puts the bodies of local functions where they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import PreconditionError
from onnx_ir.passes.common import InlinePass

from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.passes.base import Context, PassResult

__all__ = ["InlineFunctions"]


@dataclass(frozen=True)
class InlineFunctions:
    """Replaces calls of local functions by what the functions do; each kind of function that goes is one change.

    A function called in several places has its constants in each of them then.

    Attributes:
        ops: Only functions that hold one of these operators, or call one that does; empty: all.
    """

    name: ClassVar[str] = "inline-functions"
    lossy: ClassVar[bool] = False

    ops: tuple[str, ...] = ()

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Inlines them; a function that cannot be is left, with all others, and the reason noted."""
        del ctx
        return self.inline(model)

    def inline(self, model: Model) -> PassResult:
        """What ``run`` does, which takes nothing from outside."""
        wanted = _wanted(model, frozenset(self.ops))
        if not wanted:
            return PassResult(model, 0)
        copy = model.clone()
        try:
            InlinePass(lambda function: function.identifier() in wanted)(copy)
        except (ValueError, PreconditionError) as error:
            return PassResult(model, 0, tuple(Note(f[1], "kept", f"it cannot be inlined: {error}") for f in wanted))
        return PassResult(copy, len(model.functions) - len(copy.functions))


def _wanted(model: Model, ops: frozenset[str]) -> dict[ir.OperatorIdentifier, None]:
    """The functions to inline, in the order of the file."""
    found = dict.fromkeys(model.functions) if not ops else dict[ir.OperatorIdentifier, None]()
    for _ in model.functions:  # calls of calls
        found |= {
            key: None
            for key, function in model.functions.items()
            if any(
                (not n.domain and n.op_type in ops) or n.op_identifier() in found
                for n in ir.traversal.RecursiveGraphIterator(function.graph)
            )
        }
    return found
