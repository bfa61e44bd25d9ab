"""Queries, shapes, weights, static checks and the opset of small models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxopt.core.check import dangling, problems
from onnxopt.core.fingerprint import fingerprint
from onnxopt.core.io import load, save
from onnxopt.core.opset import raise_opset
from onnxopt.core.query import Model, constant, graphs, input_specs, label, nodes, opset, output_specs
from onnxopt.core.shapes import infer_shapes, rank, static_shapes
from onnxopt.core.tensors import borrow, read, tensor_bytes
from onnxopt.errors import ModelError

HEADER = '<ir_version: 8, opset_import: ["" : {opset}]> m '
FLOW = """(float[N, 3] x, bool flip) => (float[N, 3] y) {
  c = Constant<value = float[3] {1.0, 2.0, 3.0}>()
  y = If (flip) <then_branch = t () => (float[N, 3] a) { a = Add(x, c) },
                 else_branch = e () => (float[N, 3] b) { b = MatMul(x, w) }>
}"""


def model_of(tmp_path: Path, text: str, version: int = 17, **weights: np.ndarray) -> Model:
    model = parser.parse_model(HEADER.format(opset=version) + text)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    return load(tmp_path / "m.onnx")


def flow(tmp_path: Path) -> Model:
    return model_of(tmp_path, FLOW, w=np.eye(3, dtype=np.float32))


def test_nodes_of_all_depths_with_labels(tmp_path: Path) -> None:
    model = flow(tmp_path)
    assert [label(n) for n in nodes(model)] == ["Constant->c", "If->y", "Add->a", "MatMul->b"]
    assert [g.name for g in graphs(model)] == ["m", "t", "e"]
    next(nodes(model)).name = "named"
    assert label(next(nodes(model))) == "named"


def test_specs_say_what_a_caller_must_feed(tmp_path: Path) -> None:
    text = "(float[N, 3] x, string s, float16[2] h, seq(float[2]) q, float w) => (float y) { y = Identity(w) }"
    model = model_of(tmp_path, text, w=np.float32(1).reshape(()))
    assert [s.name for s in input_specs(model)] == ["x", "s", "h", "q"]
    specs = {s.name: s for s in input_specs(model)}
    assert specs["x"].shape == ("N", 3) and specs["x"].dtype == np.float32
    assert specs["q"].dtype is None and specs["h"].dtype == np.float16
    assert "w" not in specs, "an initializer that is an input has a default"
    assert [s.name for s in output_specs(model)] == ["y"]


def test_what_is_constant(tmp_path: Path) -> None:
    model = model_of(
        tmp_path,
        "(float x, float d) => (float y)"
        "{ c = Constant<value = float {2.0}>()\n a = Add(c, w)\n b = Add(a, d)\n y = Add(x, b) }",
        w=np.float32(1).reshape(()), d=np.float32(5).reshape(()),
    )  # fmt: skip
    values = {v.name: v for node in model.graph for v in (*node.inputs, *node.outputs) if v is not None}
    found = {name: constant(value) for name, value in values.items()}
    assert found["c"] is not None and float(read(found["c"])) == 2
    assert found["w"] is not None and float(read(found["w"])) == 1
    assert found["x"] is None and found["a"] is None
    assert found["d"] is None, "a caller may replace an initializer that is an input"
    assert constant(None) is None


def test_opset_takes_both_spellings() -> None:
    for domain in ("", "ai.onnx"):
        assert opset(ir.Model(ir.Graph([], [], nodes=[], opset_imports={domain: 19, "x": 3}), ir_version=8)) == 19
    assert opset(ir.Model(ir.Graph([], [], nodes=[], opset_imports={"x": 3}), ir_version=8)) == 0


def test_static_shapes_of_one_call_do_not_change_the_model(tmp_path: Path) -> None:
    model = flow(tmp_path)
    found = static_shapes(model, {"x": (4, 3), "flip": ()})
    assert found["x"] == (4, 3) and found["a"] == (4, 3) and found["b"] == (4, 3) and found["c"] == (3,)
    assert str(input_specs(model)[0]) == "x: float32 (N, 3)"


def test_sizes_that_depend_on_data_are_left_out(tmp_path: Path) -> None:
    model = model_of(tmp_path, "(float[N] x) => (int64[] y) { y = NonZero(x) }")
    assert "y" not in static_shapes(model, {"x": (4,)})


def test_ranks(tmp_path: Path) -> None:
    model = flow(tmp_path)
    infer_shapes(model)
    values = {v.name: v for node in nodes(model) for v in (*node.inputs, *node.outputs) if v is not None}
    assert (rank(values["x"]), rank(values["w"]), rank(values["b"]), rank(None)) == (2, 2, 2, None)
    assert rank(ir.Value(name="unknown")) is None


@pytest.mark.parametrize("external", [False, True])
def test_borrowed_weights_are_read_only_and_read_ones_are_not(external: bool, tmp_path: Path) -> None:
    weight = np.arange(4096, dtype=np.float32).reshape(64, 64)
    model = model_of(tmp_path, "(float[N, 64] x) => (float y) { y = MatMul(x, w) }", w=weight)
    if external:
        save(model, tmp_path / "e.onnx", threshold=0)
        model = load(tmp_path / "e.onnx")
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None and isinstance(tensor, ir.ExternalTensor) == external
    with borrow(tensor) as array:
        np.testing.assert_array_equal(array, weight)
    kept = read(tensor)
    kept += 1
    with borrow(tensor) as array:
        np.testing.assert_array_equal(array, weight)
        kept_view = array[0]
    if not external:
        np.testing.assert_array_equal(kept_view, weight[0])
    assert tensor_bytes(tensor) == weight.nbytes


def test_bytes_of_strings_and_of_half_bytes() -> None:
    strings = ir.StringTensor([b"ab", b"", b"cde"], shape=ir.Shape([3]))
    assert tensor_bytes(strings) == 5
    proto = helper.make_tensor("t", TensorProto.INT4, [4], [1, 2, 3, -4])
    assert tensor_bytes(ir.from_proto(proto)) == 2


def test_a_sound_model_has_no_problems(tmp_path: Path) -> None:
    flow(tmp_path)
    assert problems(tmp_path / "m.onnx") == ()


def test_values_that_nothing_defines_are_found_at_every_depth(tmp_path: Path) -> None:
    for read_by, name in (("MatMul", "w"), ("Add", "x")):
        model = flow(tmp_path)
        node = next(n for n in nodes(model) if n.op_type == read_by)
        node.replace_input_with([v.name for v in node.inputs if v is not None].index(name), ir.Value(name="ghost"))
        found = dangling(model)
        assert len(found) == 1 and "'ghost'" in found[0] and read_by in found[0]


def test_the_checker_is_heard(tmp_path: Path) -> None:
    proto = parser.parse_model(HEADER.format(opset=17) + "(float x) => (float y) { y = Relu(x) }")
    proto.graph.node[0].attribute.append(helper.make_attribute("nonsense", 1))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    found = problems(tmp_path / "m.onnx")
    assert len(found) == 1 and "nonsense" in found[0]


def test_an_opset_that_is_high_enough_is_left_alone(tmp_path: Path) -> None:
    model = flow(tmp_path)
    assert raise_opset(model, 13) is model and raise_opset(model, 17) is model


def test_a_raised_model_computes_the_same(tmp_path: Path) -> None:
    text = "(float[N, 4] x) => (float[N] y) { a = Unsqueeze<axes=[2]>(x)\n b = Squeeze<axes=[2]>(a)\n y = ReduceSum<axes=[1], keepdims=0>(b) }"  # noqa: E501
    model = model_of(tmp_path, text, version=11)
    raised = raise_opset(model, 13)
    assert opset(raised) == 13 and opset(model) == 11
    save(raised, tmp_path / "raised.onnx")
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    first, second = (
        ort.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for name in ("m.onnx", "raised.onnx")
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)


def test_an_opset_that_no_converter_knows_is_explained(tmp_path: Path) -> None:
    model = model_of(tmp_path, "(float x) => (float y) { y = Relu(x) }", version=17)
    with pytest.raises(ModelError, match="from opset 17 to 999"):
        raise_opset(model, 999)
    assert onnx.defs.onnx_opset_version() < 999


def test_a_fingerprint_is_that_of_the_content() -> None:
    def model(words: list[str], weight: float) -> Model:
        text = (
            '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y, string[2] s) '
            "{ y = Add (x, w) s = Identity (names) }"
        )
        proto = parser.parse_model(text)
        weights = numpy_helper.from_array(np.full(2, weight, np.float32), "w")
        proto.graph.initializer.extend([weights, numpy_helper.from_array(np.array(words, object), "names")])
        return ir.from_proto(proto)

    first = fingerprint(model(["a", "b"], 1.0))
    assert first == fingerprint(model(["a", "b"], 1.0).clone())
    assert len({first, fingerprint(model(["a", "c"], 1.0)), fingerprint(model(["a", "b"], 2.0))}) == 3
