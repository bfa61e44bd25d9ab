"""Values inside bodies against the same arithmetic in numpy."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxopt.core.edit import Editor
from onnxopt.core.io import load, save
from onnxopt.core.shapes import infer_shapes
from onnxopt.run.nested import expose, repeated
from onnxopt.run.scan import scan_as_loop
from onnxopt.run.tap import tap
from onnxopt.run.target import Target

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '

BRANCHES = (
    HEAD
    + """(float[N,2] x, bool c) => (float[N,2] z) {
    z = If (c) <then_branch = t () => (float[N,2] ty) { a = Relu(x)  ty = Neg(a) },
                else_branch = e () => (float[N,2] ey) { b = Exp(x)  ey = Neg(b) }> }"""
)

GROWING = (
    HEAD
    + """(float[K] x, int64 n) => (float[M] last, float[n,1] sums) {
    go = Constant <value = bool {1}> ()
    last, sums = Loop (n, go, x) <body = b (int64 i, bool on, float[K2] v) => (bool more, float[K3] w, float[1] s) {
        more = Identity(on)  r = Relu(v)  w = Concat <axis=0> (r, x)  s = ReduceSum <keepdims=1> (w) }> }"""
)

NESTED = (
    HEAD
    + """(float[2] x, int64 n) => (float[2] last) {
    go = Constant <value = bool {1}> ()  one = Constant <value = int64 {1}> ()
    last = Loop (n, go, x) <body = b (int64 i, bool on, float[2] v) => (bool more, float[2] w) {
        more = Identity(on)  late = GreaterOrEqual(i, one)
        u = If (late) <then_branch = t () => (float[2] ty) { d = Add(v, v)  ty = Identity(d) },
                       else_branch = e () => (float[2] ey) { ey = Neg(v) }>
        w = Add(u, x) }> }"""
)


def scan(attributes: str, shape: str) -> str:
    return (
        HEAD
        + f"""(float[2] h, float[{shape}] x) => (float[2] hn, float ys) {{
        hn, ys = Scan <num_scan_inputs = 1, {attributes}
            body = b (float[2] s, float[2] e) => (float[2] t, float[2] y) {{
                d = Mul(e, e)  t = Add(s, d)  y = Neg(t) }}> (h, x) }}"""
    )


def written(text: str, folder: Path):
    proto = onnx.parser.parse_model(text)
    if proto.graph.output[-1].name == "ys":
        proto.graph.output[-1].type.tensor_type.ClearField("shape")
    onnx.save(proto, folder / "m.onnx")
    return load(folder / "m.onnx")


def seen(text: str, names: list[str], feeds: list[dict], folder: Path) -> dict[str, list[np.ndarray]]:
    model, found = written(text, folder), {name: list[np.ndarray]() for name in names}
    before = [v.name for v in model.graph.outputs]
    for values in tap(model, names, lambda: feeds, Target(threads=1), folder):
        for name, array in values.items():
            found[name].append(array)
    assert [v.name for v in model.graph.outputs] == before
    return found


def test_a_branch_gives_values_only_when_it_is_taken(tmp_path):
    x = np.array([[-1, 2], [3, -4]], np.float32)
    feeds = [{"x": x, "c": np.array(True)}, {"x": x[:1], "c": np.array(False)}]
    found = seen(BRANCHES, ["a", "b", "ty", "x"], feeds, tmp_path)
    np.testing.assert_array_equal(found["a"][0], np.maximum(x, 0))
    np.testing.assert_array_equal(found["ty"][0], -np.maximum(x, 0))
    assert found["a"][1].size == found["b"][0].size == 0
    np.testing.assert_allclose(found["b"][1], np.exp(x[:1]), rtol=1e-6)
    np.testing.assert_array_equal(found["x"][1], x[:1])


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_a_loop_gives_the_values_of_all_iterations_though_their_shapes_grow(tmp_path, trips):
    x = np.array([1, -2], np.float32)
    feeds = [{"x": x, "n": np.array(trips)}]
    found = seen(GROWING, ["v", "r", "w", "s", "last", "sums"], feeds, tmp_path)
    v, expected = x, {"v": [], "r": [], "w": [], "s": []}
    for _ in range(trips):
        r = np.maximum(v, 0)
        w = np.concatenate([r, x])
        for name, array in zip("vrws", (v, r, w, [w.sum()]), strict=True):
            expected[name].extend(array)
        v = w
    for name, numbers in expected.items():
        np.testing.assert_array_equal(found[name][0], np.array(numbers, np.float32))
    np.testing.assert_array_equal(found["last"][0], v)
    assert found["sums"][0].shape == (trips, 1)


def test_a_branch_inside_a_loop_gives_the_values_of_the_iterations_that_take_it(tmp_path):
    x = np.array([1, -2], np.float32)
    found = seen(NESTED, ["d", "w"], [{"x": x, "n": np.array(3)}, {"x": x, "n": np.array(1)}], tmp_path)
    first = -x + x
    second = 2 * first + x
    np.testing.assert_array_equal(found["d"][0], np.concatenate([2 * first, 2 * second]))
    assert found["d"][1].size == 0
    np.testing.assert_array_equal(found["w"][0], np.concatenate([first, second, 2 * second + x]))


def test_values_in_loops_and_scans_are_repeated(tmp_path):
    assert {"d", "w", "late"} <= repeated(written(NESTED, tmp_path))
    assert repeated(written(BRANCHES, tmp_path)) == frozenset()
    assert {"e", "d", "t"} <= repeated(written(scan("", "3,2"), tmp_path))


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ("", "3,2"),
        ("scan_input_axes = [1],", "2,3"),
        ("scan_input_axes = [-1], scan_output_axes = [1],", "2,3"),
        ("scan_output_axes = [-1], scan_output_directions = [1],", "3,2"),
        ("scan_input_directions = [1], scan_output_directions = [1],", "3,2"),
    ],
)
def test_a_scan_gives_its_values_and_still_computes_the_same(tmp_path, attributes, shape):
    sizes = [int(s) for s in shape.split(",")]
    h, x = np.array([1, 2], np.float32), np.arange(6, dtype=np.float32).reshape(sizes)
    text = scan(attributes, shape)
    found = seen(text, ["d", "e", "hn", "ys"], [{"h": h, "x": x}], tmp_path)
    rows = x if sizes == [3, 2] else x.T
    rows = rows[::-1] if "input_directions = [1]" in attributes else rows
    np.testing.assert_array_equal(found["d"][0], np.square(rows).ravel())
    np.testing.assert_array_equal(found["e"][0], rows.ravel())
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for name, want in zip(("hn", "ys"), session.run(None, {"h": h, "x": x}), strict=True):
        np.testing.assert_array_equal(found[name][0], want)


def test_a_scan_whose_output_has_no_known_rank_stays_as_it_is(tmp_path):
    model = written(scan("scan_output_axes = [1],", "3,2"), tmp_path)
    node = next(n for n in model.graph if n.op_type == "Scan")
    node.attributes["body"].as_graph().outputs[1].shape = None
    save(model, tmp_path / "before.onnx")
    assert scan_as_loop(Editor(model), node) is None
    save(model, tmp_path / "after.onnx")
    assert (tmp_path / "before.onnx").read_bytes() == (tmp_path / "after.onnx").read_bytes()


def test_values_of_local_functions_are_missing(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] z) { z = local.f(x) }
        <domain: "local", opset_import: ["" : 17]> f (a) => (c) { b = Neg(a)  c = Relu(b) }"""
    model = written(text, tmp_path)
    infer_shapes(model)
    assert expose(model, ["b", "z"]) == {"z": "z"}
