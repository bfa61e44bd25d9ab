"""Turns inputs with a default value into constants.

An initializer that is also a graph input may be replaced by the caller, so no pass may compute with it. Exporters of
old list every weight that way (before IR version 4 they had to; ``core.io.load`` drops those), though nobody replaces
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxopt.core.query import Model
from onnxopt.passes.base import Context, PassResult

__all__ = ["FreezeDefaults"]


@dataclass(frozen=True)
class FreezeDefaults:
    """Inputs of the main graph that have a default value."""

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
        return PassResult(model, count)
