"""Which provider runs which node: as ONNX Runtime tells, as its log tells, and what counts as work on shapes."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from onnxopt.errors import ProviderError
from onnxopt.run import placement
from onnxopt.run.placement import Placed, described, placed_elsewhere, read_placement, record_placement
from onnxopt.run.session import open_session
from onnxopt.run.shape_work import shape_nodes
from onnxopt.run.target import PROVIDERS, Target

NESTED = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, bool c) => (float[N,4] y) {
    a = Sin(x)
    b = If (c) <then_branch = t () => (float[N,4] p) { p = Exp(a) },
                else_branch = e () => (float[N,4] q) { q = Cos(a) }>
    y = Neg(b) }"""
HEADER = "2026-11-22 20:16:28.2 [V:onnxruntime:, session_state.cc:1154 VerifyEachNodeIsAssignedToAnEp] "
LOG_1_20 = [
    HEADER + "Node placements",
    HEADER + " Node(s) placed on [OpenVINOExecutionProvider]. Number of nodes: 1",
    HEADER + "  OpenVINO-EP-subgraph_1 (OpenVINOExecutionProvider_OpenVINO-EP-subgraph_1_0)",
    HEADER + " Node(s) placed on [CPUExecutionProvider]. Number of nodes: 2",
    HEADER + "  Hardmax ()",
    HEADER + "  FusedConv (a/b (c))",
    "2026-11-22 20:16:28.2 [V:onnxruntime:, session_state.cc:128 CreateGraphInfo] SaveMLValueNameIndexMapping",
    HEADER + "Node placements",
    HEADER + " All nodes placed on [CPUExecutionProvider]. Number of nodes: 3",
]


def write(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    record_placement(options)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.skipif(not hasattr(ort.InferenceSession, placement.ASK), reason="needs ONNX Runtime 1.24")
def test_nodes_of_nested_graphs_are_placed_too(tmp_path: Path) -> None:
    path = write(NESTED, tmp_path / "m.onnx")
    found = placed_elsewhere(session(path), path, Target(threads=1), "CUDAExecutionProvider")
    assert {"Sin", "Exp", "Cos", "Neg", "If"} <= {node.op for node in found}
    assert {node.provider for node in found} == {"CPUExecutionProvider"}
    assert placed_elsewhere(session(path), path, Target(threads=1), "CPUExecutionProvider") == ()


def test_the_log_tells_where_the_runtime_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(NESTED, tmp_path / "m.onnx")
    raw = session(path)
    monkeypatch.setattr(placement, "ASK", "not_in_this_version")
    found = placed_elsewhere(raw, path, Target(threads=1), "CUDAExecutionProvider")
    assert {node.provider for node in found} == {"CPUExecutionProvider"}
    assert placed_elsewhere(raw, path, Target(threads=1), "CPUExecutionProvider") == ()


def test_a_log_without_placement_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(NESTED, tmp_path / "m.onnx")
    raw = session(path)
    path.write_bytes(b"gone")
    monkeypatch.setattr(placement, "ASK", "not_in_this_version")
    with pytest.raises(ProviderError, match="does not tell which nodes"):
        placed_elsewhere(raw, path, Target(threads=1), "CPUExecutionProvider")


def test_the_log_of_onnx_runtime_1_20_is_read() -> None:
    cpu, openvino = "CPUExecutionProvider", "OpenVINOExecutionProvider"
    assert list(read_placement(LOG_1_20)) == [
        Placed("OpenVINO-EP-subgraph_1", "OpenVINOExecutionProvider_OpenVINO-EP-subgraph_1_0", openvino),
        Placed("Hardmax", "", cpu),
        Placed("FusedConv", "a/b (c)", cpu),
        Placed("(all)", "", cpu),
    ]


def test_nodes_are_described_by_operator_and_provider() -> None:
    nodes = [Placed("Cast", "", "A"), Placed("Cast", "up", "A"), Placed("Det", "", "B")]
    assert described(nodes) == "2 Cast on A; Det on B (up)"
    assert described([Placed("(all)", "", "A")]) == "all of a graph on A"


@pytest.mark.parametrize("known", PROVIDERS, ids=[p.short for p in PROVIDERS])
@pytest.mark.parametrize("is_short", [True, False])
def test_every_provider_runs_or_names_its_package(tmp_path: Path, known: object, is_short: bool) -> None:
    path = write(NESTED, tmp_path / "m.onnx")
    name = known.short.upper() if is_short else known.name
    target = Target(name, threads=1, allow_fallback=True)
    if known.name in ort.get_available_providers():
        assert open_session(path, target).raw is not None
        return
    with pytest.raises(ProviderError) as caught:
        open_session(path, target)
    assert known.name in caught.value.what
    assert f"`{known.package}`" in caught.value.fix


def test_work_on_shapes_is_told_from_work_on_data(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, int64[M] ids) => (float[K,4] y, float[L,4] z)
    <int64[1] zero = {0}, float[2,4] table = {1,2,3,4,5,6,7,8}, int64[1] four = {4}> {
        s = Shape(x)
        n = Gather(s, zero)
        k = Concat<axis = 0>(n, four)
        y = Reshape(x, k)
        z = Gather(table, ids) }"""
    model = onnx.parser.parse_model(text)
    for node, name in zip(model.graph.node, ("shape", "pick", "join", "reshape", "embed"), strict=True):
        node.name = name
    onnx.save(model, tmp_path / "m.onnx")
    found = shape_nodes(tmp_path / "m.onnx")
    assert {("Shape", "shape"), ("Gather", "pick"), ("Concat", "join")} == found


def test_nodes_without_names_count_only_together(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, int64[M] ids) => (int64[1] n, float[L,4] z)
    <int64[1] zero = {0}, float[2,4] table = {1,2,3,4,5,6,7,8}> {
        s = Shape(x)  n = Gather(s, zero)  z = Gather(table, ids) }"""
    assert shape_nodes(write(text, tmp_path / "m.onnx")) == {("Shape", "")}
