from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxopt.core.io import load
from onnxopt.errors import DataError, ModelError, ProviderError
from onnxopt.measurement.job import Subject
from onnxopt.measurement.process import Laboratory
from onnxopt.measurement.profile import NodeTime, Profile, profile
from onnxopt.measurement.regions import compare_profiles
from onnxopt.measurement.trace import Kernel, Trace, TraceJob
from onnxopt.measurement.trace_worker import main_graph_runs
from onnxopt.run.target import Target
from tests.measurement.test_measure import children, linux, soon

ONE = Target(threads=1)
CPU = "CPUExecutionProvider"


def test_the_times_of_all_kernels_add_up(models: Path, feeds: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    before = set(Path.cwd().iterdir())
    found = profile(models / "chain2.onnx", feeds, ONE, runs=5)
    assert found.runs == 5
    assert found.total_ms == pytest.approx(sum(t.time_ms for t in found.times))
    assert 0 < found.total_ms <= 2 * found.run_ms
    assert found.provider_shares == {CPU: pytest.approx(1.0)}
    assert found.attributed_share == 1.0
    assert set(Path.cwd().iterdir()) == before


def test_samples_of_several_lengths_are_profiled(models: Path) -> None:
    samples = [{"x": np.zeros((n, 256), np.float32)} for n in (1, 5, 9)]
    assert profile(models / "chain2.onnx", samples, ONE, runs=4).runs == 4


def test_shares_of_several_providers(models: Path) -> None:
    times = tuple(NodeTime((n,), "Relu", ms, p, n) for n, ms, p in [("a", 1.0, CPU), ("b", 3.0, "X")])
    assert dict(Profile(times, 1, 4.0).provider_shares) == {"X": 0.75, CPU: 0.25}
    assert dict(Profile((), 1, 0.0).provider_shares) == {}


def test_errors_of_a_profile_are_those_of_a_measurement(models: Path, tmp_path: Path) -> None:
    chain = models / "chain2.onnx"
    with pytest.raises(DataError, match="does not run on this input"):
        profile(chain, [{"x": np.zeros((1, 3), np.float32)}], ONE)
    with pytest.raises(DataError, match="no sample"):
        profile(chain, [], ONE)
    with pytest.raises(ProviderError):
        profile(chain, [{"x": np.zeros((1, 256), np.float32)}], Target(provider="openvino", threads=1))


@linux
def test_a_crash_is_reported_with_its_signal(models: Path, tmp_path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    before = set(children(os.getpid()))

    def kill() -> None:
        soon(lambda: set(children(os.getpid())) - before)
        for pid in set(children(os.getpid())) - before:
            os.kill(pid, signal.SIGSEGV)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ModelError, match="SIGSEGV") as caught:
        Laboratory(tmp_path, feeds).trace(Subject(str(models / "chain2.onnx"), ONE), 10**9)
    killer.join()
    assert caught.value.where == "chain2.onnx"


def event(name: str, start: int, time: int, op: str | None = None) -> dict[str, object]:
    if op is None:
        return {"cat": "Session", "name": name, "ts": start, "dur": time, "args": {}}
    details = {"op_name": op, "provider": CPU}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": time, "args": details}


def test_loops_within_loops_count_once_and_a_cut_run_not_at_all() -> None:
    def run(start: int) -> list[dict[str, object]]:
        return [
            event("before", start + 1, 0, "Relu"),
            event("innermost", start + 6, 1, "Relu"),
            event("SequentialExecutor::Execute", start + 5, 3),
            event("inner", start + 4, 5, "Loop"),
            event("SequentialExecutor::Execute", start + 3, 7),
            event("outer", start + 2, 9, "Loop"),
            event("after", start + 12, 2, "Relu"),
            event("SequentialExecutor::Execute", start, 15),
            event("model_run", start, 16),
        ]

    cut = [e for e in run(200) if e["name"] != "after_kernel_time"]
    runs = main_graph_runs([event("session_initialization", 0, 9), *run(100), *cut, *run(300)])
    assert [[(e.name, e.time) for e in kernels] for _, kernels in runs] == [
        [("before", 0), ("outer", 9), ("after", 2)]
    ] * 2


def test_job_and_trace_survive_the_trip() -> None:
    job = TraceJob(Subject("/m.onnx", Target(threads=2, options={"a": "1"})), "/f.npz", (("x", "y"), ()), 3, "/d", 1)
    assert TraceJob.from_json(job.to_json()) == job
    trace = Trace((Kernel("a", "Relu", CPU, 1.5),), 2, 3.0, None)
    assert Trace.from_document(json.loads(json.dumps(trace.to_document()))) == trace


FLOATS = """
m (float[4, 64] x) => (float[4, 64] y) {
  start = Neg (x)
  a = MatMul (start, w)
  b = Relu (a)
  c = MatMul (b, w)
  d = Add (c, b)
  y = Tanh (d)
}"""
INTEGERS = """
m (float[4, 64] x) => (float[4, 64] y) {
  start = Neg (x)
  q, qs, qz = DynamicQuantizeLinear (start)
  i = MatMulInteger (q, wq, qz)
  f = Cast <to = 1> (i)
  a = Mul (f, qs)
  b = Relu (a)
  c = MatMul (b, w)
  d = Add (c, b)
  y = Tanh (d)
}"""


def saved(path: Path, text: str) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array((rng.standard_normal((64, 64)) / 8).astype("f4"), "w"))
    model.graph.initializer.append(numpy_helper.from_array(rng.integers(-9, 9, (64, 64)).astype("i1"), "wq"))
    onnx.save(model, path)
    return path


def test_regions_of_two_models_sum_to_their_profiles(tmp_path: Path) -> None:
    paths = [saved(tmp_path / "a.onnx", FLOATS), saved(tmp_path / "b.onnx", INTEGERS)]
    feeds = [{"x": np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)}]
    first, second = (profile(path, feeds, ONE, runs=3) for path in paths)
    regions = compare_profiles(first, second, load(paths[0]), load(paths[1]))
    assert sorted(r.nodes for r in regions) == [("MatMul->a",), ("MatMul->c",)]
    assert sum(r.reference_ms for r in regions) == pytest.approx(first.total_ms)
    assert sum(r.candidate_ms for r in regions) == pytest.approx(second.total_ms)
    assert [r.loss_ms for r in regions] == sorted((r.loss_ms for r in regions), reverse=True)
    by_node = {r.nodes[0]: r for r in regions}
    changed, same = by_node["MatMul->a"], by_node["MatMul->c"]
    assert not any("Integer" in op or op.startswith("DynamicQuantize") for op in changed.reference_ops)
    assert any("Integer" in op or op.startswith("DynamicQuantize") for op in changed.candidate_ops)
    assert "Neg" in changed.reference_ops  # nothing computes before it
    assert set(same.reference_ops) == set(same.candidate_ops)


def times(*entries: tuple[tuple[str, ...], str, float]) -> Profile:
    return Profile(tuple(NodeTime(nodes, op, ms, CPU, op) for nodes, op, ms in entries), 1, 0.0)


def test_compute_nodes_that_one_kernel_fuses_are_one_region(tmp_path: Path) -> None:
    model = load(saved(tmp_path / "a.onnx", FLOATS))
    fused = times((("MatMul->a", "MatMul->c"), "Attention", 1.0), (("Tanh->y",), "Tanh", 0.5))
    apart = times((("MatMul->a",), "MatMul", 2.0), ((), "ReorderInput", 0.25), (("MatMul->c",), "MatMul", 4.0))
    for first, second in ((fused, apart), (apart, fused)):
        (region,) = compare_profiles(first, second, model, model)
        assert region.nodes == ("MatMul->a", "MatMul->c")
        assert (region.reference_ms, region.candidate_ms) == (first.total_ms, second.total_ms)
    assert region.reference_ops == ("MatMul", "ReorderInput")
    assert region.ratio == pytest.approx(1.5 / 6.25)


def test_nodes_join_by_name_then_by_output(tmp_path: Path) -> None:
    model = load(saved(tmp_path / "a.onnx", FLOATS))
    renamed = load(saved(tmp_path / "b.onnx", FLOATS))
    for node in renamed.graph:
        node.name = f"other {node.outputs[0].name}"
    first = times((("MatMul->a",), "MatMul", 2.0), (("MatMul->c",), "MatMul", 4.0))
    second = times((("other a", "other b"), "FusedMatMul", 1.0), (("other d",), "Add", 0.5))
    found = {r.nodes: r.candidate_ms for r in compare_profiles(first, second, model, renamed)}
    assert found == {("MatMul->a",): 1.0, ("MatMul->c",): 0.5}


def test_a_model_that_computes_nothing_is_one_region(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    (region,) = compare_profiles(times((("Relu->y",), "Relu", 1.0)), times(((), "X", 0.0)), model, model)
    assert region.nodes == ("(whole model)",)
    assert (region.reference_ms, region.candidate_ms) == (1.0, 0.0)
