"""Static checks of a model file: the ONNX checker, and names that are used but never defined."""

from __future__ import annotations

from pathlib import Path

from onnx import checker

from onnxopt.core.io import load
from onnxopt.core.query import Model, graphs, label

__all__ = ["dangling", "problems"]


def problems(path: Path) -> tuple[str, ...]:
    """What is statically wrong with the model file at ``path``, one sentence each; empty when nothing is.

    Raises:
        ModelError: The file cannot be read at all.
    """
    found = list(dangling(load(path)))
    try:
        checker.check_model(str(path))  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # ValidationError, or what the C++ side throws
        found.append(f"the ONNX checker says: {' '.join(str(error).split())[:400]}")
    return tuple(found)


def dangling(model: Model) -> tuple[str, ...]:
    """The values that are read but that nothing defines, one sentence each."""
    found: list[str] = []
    for graph in graphs(model):
        defined = {id(v) for v in graph.inputs} | {id(v) for v in graph.initializers.values()}
        for node in graph:
            for value in node.inputs:
                if value is None or value.producer() is not None or id(value) in defined:
                    continue
                if value.graph is None and not value.is_initializer():
                    found.append(f"node {label(node)!r} reads {value.name!r}, which nothing defines")
        found.extend(
            f"output {value.name!r} of graph {graph.name!r} is defined by nothing"
            for value in graph.outputs
            if value.producer() is None and value.graph is None and id(value) not in defined
        )
    return tuple(found)
