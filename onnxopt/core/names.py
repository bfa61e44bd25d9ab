"""Names that are unique over all graphs of a model, so that a name says which value is meant.

ONNX demands that only of a graph and what encloses it: the two branches of an If may use the same names.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.core.query import Model

__all__ = ["has_unique_names", "make_names_unique"]


def has_unique_names(model: Model) -> bool:
    """Whether no two values of the main graph and the bodies in it share a name."""
    return not _repeated(model)


def make_names_unique(model: Model) -> int:
    """Renames values of bodies whose name another body has too, in place; the number of values renamed."""
    repeated = _repeated(model)
    editor = Editor(model)
    for value in repeated:
        value.name = editor.fresh_name(value.name or "value")
    return len(repeated)


def _repeated(model: Model) -> list[ir.Value]:
    """All but the first value of each name, the main graph first."""
    seen: set[str] = set()
    found: list[ir.Value] = []
    for value in _values(model):
        if value.name in seen:
            found.append(value)
        elif value.name:
            seen.add(value.name)
    return found


def _values(model: Model) -> Iterator[ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from dict.fromkeys([*graph.inputs, *graph.initializers.values()])
        for node in graph:
            yield from node.outputs
