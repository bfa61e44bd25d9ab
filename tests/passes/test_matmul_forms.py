"""PlainMatMul, PlainGemm and EinsumToMatMul: whole numbers, so that equal means equal."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxopt.passes.rewrite.einsum import EinsumToMatMul
from onnxopt.passes.rewrite.gemm import PlainGemm
from onnxopt.passes.rewrite.matmul import PlainMatMul
from tests.passes.conftest import ops

RNG = np.random.default_rng(0)


def whole(*shape: int) -> np.ndarray:
    return RNG.integers(-3, 4, shape).astype(np.float32)


def model_with(body: str, dims: str, *, opset: int = 17, extra: str = "", **weights: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": {opset}]> g
        (float[{dims}] x{extra}) => (float y) {{ {body} }}""")
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return ir.from_proto(proto)


@pytest.mark.parametrize(
    ("body", "dims", "weight", "data", "expected"),
    [
        ("y = MatMul(x, w)", "N,T,3", (1, 3, 2), (4, 5, 3), ["MatMul"]),
        ("y = MatMul(x, w)", "A,N,T,3", (1, 3, 2), (2, 4, 5, 3), ["MatMul"]),
        ("y = MatMul(w, x)", "3,N", (2, 3), (3, 5), ["Transpose", "MatMul", "Transpose"]),
        ("y = MatMul(w, x)", "N,3,T", (2, 3), (4, 3, 5), ["Transpose", "MatMul", "Transpose"]),
        ("y = MatMul(w, x)", "N,3,T", (1, 2, 3), (4, 3, 5), ["Transpose", "MatMul", "Transpose"]),
    ],
)
def test_plain_matmul(check, body, dims, weight, data, expected):
    model = model_with(body, dims, w=whole(*weight))
    result = check(model, PlainMatMul(), {"x": whole(*data)})
    assert result.changes == 1
    assert ops(result.model.graph) == expected
    assert [len(v.const_value.shape) for v in result.model.graph.initializers.values()] == [2]


@pytest.mark.parametrize(
    ("body", "dims", "weight", "reason"),
    [
        ("y = MatMul(x, w)", "4,5,3", (4, 3, 2), "differs along the batch"),
        ("y = MatMul(x, w)", "5,3", (1, 3, 2), "more dimensions than its data"),
        ("r = Reshape(x, x2) y = MatMul(w, r)", "12", (2, 3), "the rank of its data is not known"),
    ],
)
def test_plain_matmul_declined(check, body, dims, weight, reason):
    extra = ", int64[R] x2" if "x2" in body else ""
    result = check(model_with(body, dims, extra=extra, w=whole(*weight)), PlainMatMul())
    assert result.changes == 0
    assert reason in result.notes[0].reason


@pytest.mark.parametrize(("dims", "weight"), [("N,3", (3, 2)), ("N,3", (3,))])
def test_plain_matmul_has_nothing_to_say(check, dims, weight):
    result = check(model_with("y = MatMul(x, w)", dims, w=whole(*weight)), PlainMatMul(), {"x": whole(4, 3)})
    assert (result.changes, result.notes) == (0, ())


@pytest.mark.parametrize(
    ("attributes", "bias", "expected"),
    [
        ("alpha = 2.0", (2,), ["Gemm"]),
        ("beta = 0.5", (1, 2), ["Gemm"]),
        ("alpha = 0.5, beta = 2.0, transB = 1", (2,), ["Gemm"]),
        ("transA = 1", (2,), ["Transpose", "Gemm"]),
        ("transB = 0", (1,), ["Gemm"]),
        ("transB = 0", (), ["Gemm"]),
        ("beta = 2.0", (4, 2), ["Gemm", "Mul", "Add"]),
        ("transB = 0", (4, 1), ["Gemm", "Add"]),
        ("alpha = 2.0", None, ["Gemm"]),
    ],
)
def test_plain_gemm(check, attributes, bias, expected):
    weight = whole(2, 3) if "transB = 1" in attributes else whole(3, 2)
    weights = {"w": weight} | ({} if bias is None else {"b": whole(*bias)})
    inputs = "x, w" if bias is None else "x, w, b"
    model = model_with(f"y = Gemm <{attributes}> ({inputs})", "3,N" if "transA" in attributes else "N,3", **weights)
    model.graph[0].name = "fc"
    result = check(model, PlainGemm(), {"x": whole(3, 4) if "transA" in attributes else whole(4, 3)})
    assert result.changes == 1
    assert ops(result.model.graph) == expected
    gemm = next(n for n in result.model.graph if n.op_type == "Gemm")
    assert set(gemm.attributes) <= {"transB"}
    assert gemm.name == "fc"


def test_plain_gemm_with_a_bias_that_is_computed(check):
    model = model_with("c = Neg(x) y = Gemm <beta = 2.0> (x, w, c)", "N,3", w=whole(3, 3))
    result = check(model, PlainGemm(), {"x": whole(3, 3)})
    assert ops(result.model.graph) == ["Neg", "Gemm", "Mul", "Add"]


def test_plain_gemm_declined(check):
    result = check(model_with("v = Neg(w) y = Gemm <alpha = 2.0> (x, v)", "N,3", w=whole(3, 2)), PlainGemm())
    assert (result.changes, result.notes[0].reason) == (0, "its weight is computed by Neg")
    result = check(model_with("y = Gemm (x, w, b)", "N,3", w=whole(3, 2), b=whole(2)), PlainGemm())
    assert (result.changes, result.notes) == (0, ())


@pytest.mark.parametrize(
    ("equation", "swapped", "weight", "data", "expected"),
    [
        ("btd,do->bto", False, (3, 4), (2, 5, 3), ["MatMul"]),
        ("btd,dhk->bthk", False, (3, 2, 4), (2, 5, 3), ["MatMul", "Reshape"]),
        ("bthk,hkd->btd", False, (2, 4, 3), (2, 5, 2, 4), ["Reshape", "MatMul"]),
        ("bthk,khd->btd", False, (4, 2, 3), (2, 5, 2, 4), ["Reshape", "MatMul"]),
        ("btd,dhk->bhtk", False, (3, 2, 4), (2, 5, 3), ["MatMul", "Reshape", "Transpose"]),
        ("bdt,do->bto", False, (3, 4), (2, 3, 5), ["Transpose", "MatMul"]),
        ("oi,bit->bot", True, (4, 3), (2, 3, 5), ["Transpose", "MatMul", "Transpose"]),
        ("ab, bc", False, (3, 4), (5, 3), ["MatMul"]),
        ("ca,bc", False, (4, 2), (3, 4), None),
    ],
)
def test_einsum(check, equation, swapped, weight, data, expected):
    inputs = "w, x" if swapped else "x, w"
    if expected is None:  # implicit result in the order of the alphabet: (a, b) = sum over c
        inputs, expected = "w, x", ["MatMul", "Transpose"]
    dims = ",".join("NABC"[: len(data)])
    model = model_with(f'y = Einsum <equation = "{equation}"> ({inputs})', dims, w=whole(*weight))
    result = check(model, EinsumToMatMul(), {"x": whole(*data)})
    assert result.changes == 1
    assert ops(result.model.graph) == expected


@pytest.mark.parametrize(
    ("equation", "weight", "reason"),
    [
        ("bij,bjk->bik", (2, 3, 4), "differs along the batch"),
        ("bij,jk->bi", (3, 4), "sums over a dimension of one operand"),
        ("bij,j->bi", (3,), "no product of matrices"),
        ("bij,kl->bijkl", (3, 4), "no product of matrices"),
        ("...j,jk->...k", (3, 4), "no product of two operands"),
        ("bii,ik->bk", (3, 4), "a letter is there twice"),
    ],
)
def test_einsum_declined(check, equation, weight, reason):
    model = model_with(f'y = Einsum <equation = "{equation}"> (x, w)', "A,B,C", w=whole(*weight))
    result = check(model, EinsumToMatMul())
    assert result.changes == 0
    assert reason in result.notes[0].reason


def test_einsum_of_two_values(check):
    model = model_with('y = Einsum <equation = "ab,bc->ac"> (x, x)', "A,A")
    assert "not exactly one operand" in check(model, EinsumToMatMul()).notes[0].reason
