from __future__ import annotations

import numpy as np

from onnxopt.core.query import label
from onnxopt.measurement.profile import NodeTime, Profile
from onnxopt.measurement.regions import RegionTime
from onnxopt.quantization.patterns import KEPT
from onnxopt.quantization.search.gains import losing_nodes, where_it_gains
from onnxopt.quantization.static import StaticQuantize
from tests.quantization.conftest import Lab


def region(name: str, reference_ms: float, candidate_ms: float) -> RegionTime:
    return RegionTime((name,), ("Conv",), ("QLinearConv",), reference_ms, candidate_ms)


def test_only_clear_losses_count() -> None:
    plain = Profile((NodeTime(("a",), "Conv", 10.0, "CPUExecutionProvider", "a"),), 20, 10.0, ())
    regions = [region("slower", 1.0, 2.0), region("equal", 1.0, 1.04), region("tiny", 0.001, 0.009)]
    assert losing_nodes([*regions, region("faster", 1.0, 0.3)], plain) == ["slower"]


def test_nodes_named_as_slower_stay_float(lab: Lab, rng: np.random.Generator) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 16] x) => (float[N, 16] y) '
        "{ a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }"
    )
    arrays = {k: rng.standard_normal((16, 16)).astype(np.float32) for k in "wv"}
    model = lab.build(text, **arrays)
    first = label(next(n for n in model.graph if n.op_type == "MatMul"))
    data = [{"x": rng.standard_normal((4, 16)).astype(np.float32)} for _ in range(4)]
    result = lab.run(StaticQuantize(keep_float=(first,)), model, data)
    assert result.changes == 1
    assert {n.node for n in result.notes if n.reason == KEPT} == {first}


def test_a_search_for_gains_names_nodes_of_the_model_or_nothing(lab: Lab, rng: np.random.Generator) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 8, 16, 16] x) => (float[N, 8, 16, 16] y) '
        "{ a = Conv <group = 8, pads = [1, 1, 1, 1]> (x, w) y = Relu (a) }"
    )
    model = lab.build(text, w=rng.standard_normal((8, 1, 3, 3)).astype(np.float32))
    feeds = [{"x": rng.standard_normal((1, 8, 16, 16)).astype(np.float32)} for _ in range(4)]
    item, ctx = StaticQuantize(), lab.context(feeds)
    found = where_it_gains(model, item, feeds, ctx)
    assert found is None or set(found.keep_float) <= {label(n) for n in model.graph}
