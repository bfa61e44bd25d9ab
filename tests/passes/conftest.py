"""Text models in, passes, text graphs out; and the check that ONNX Runtime computes the same before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxopt.core.io import load, save
from onnxopt.passes.base import Context, Pass, PassResult

Check = Callable[..., PassResult]


def model_of(text: str) -> ir.Model:
    """The model written in ONNX's text syntax."""
    return ir.from_onnx_text(text)


def ops(graph: ir.Graph) -> list[str]:
    """Operators of a graph in order, its nested graphs in parentheses behind their node."""
    found: list[str] = []
    for node in graph:
        found.append(node.op_type)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found.append("(" + " ".join(ops(attribute.as_graph())) + ")")
    return found


def execute(model: ir.Model, folder: Path, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs without any of the runtime's own optimizations."""
    path = folder / "executed.onnx"
    save(model, path)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs a pass and asserts what every pass promises; returns its first result.

    Same names, types and values of the outputs; a second run changes nothing; 0 changes mean the same bytes.
    """

    def signature(model: ir.Model) -> list[tuple[str | None, Any, str]]:
        return [(v.name, v.type, str(v.shape)) for v in (*model.graph.inputs, *model.graph.outputs)]

    def run(model: ir.Model, item: Pass, *feeds: Mapping[str, Any], rtol: float = 1e-5) -> PassResult:
        ctx = Context(workdir=tmp_path)
        before_file, after_file = tmp_path / "before.onnx", tmp_path / "after.onnx"
        save(model, before_file)
        expected = [execute(load(before_file), tmp_path, feed) for feed in feeds]
        result = item.run(load(before_file), ctx)
        assert signature(result.model) == signature(load(before_file))
        save(result.model, after_file)
        if not result.changes:
            save(load(before_file), before_file)
            assert after_file.read_bytes() == before_file.read_bytes()
        for feed, outputs in zip(feeds, expected, strict=True):
            for have, want in zip(execute(result.model, tmp_path, feed), outputs, strict=True):
                assert np.asarray(have).dtype == np.asarray(want).dtype
                if item.name.startswith("fold-") and np.asarray(want).dtype.kind == "f":
                    np.testing.assert_allclose(have, want, rtol=rtol, atol=rtol)
                else:
                    np.testing.assert_array_equal(have, want)
        assert item.run(load(after_file), ctx).changes == 0, "a second run changes the model again"
        return result

    return run
