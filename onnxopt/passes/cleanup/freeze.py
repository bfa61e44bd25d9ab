"""Makes weights constant that a caller could replace, because they are listed as inputs.

Before IR version 4 every initializer had to be an input too, so that in such files no weight is a constant and nothing
folds. ONNX Runtime does not let callers replace them there; from version 4 on it does, so this is never done unasked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxopt.core.edit import INITIALIZERS_ARE_INPUTS
from onnxopt.core.query import Model
from onnxopt.passes.base import Context, PassResult

__all__ = ["FreezeDefaults"]


@dataclass(frozen=True)
class FreezeDefaults:
    """Inputs of the main graph that have a default value; the IR version rises to 4 where it is lower."""

    name: ClassVar[str] = "freeze-defaults"
    lossy: ClassVar[bool] = False

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Removes them from the inputs; each counts as one change."""
        del ctx
        graph = model.graph
        kept = [value for value in graph.inputs if not value.is_initializer()]
        count = len(graph.inputs) - len(kept)
        if count:
            graph.inputs.clear()
            graph.inputs.extend(kept)
            model.ir_version = max(model.ir_version, INITIALIZERS_ARE_INPUTS)
        return PassResult(model, count)
