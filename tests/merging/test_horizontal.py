"""Operators of several members as one, each by itself: equal to one after the other on batches of 1 and 3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from onnxopt.core.io import load, save_scratch
from onnxopt.merging.align import align_inputs
from onnxopt.merging.forms import Form
from onnxopt.merging.horizontal.fuse import Fused
from onnxopt.merging.member import prepare
from onnxopt.merging.opsets import same_opsets
from onnxopt.merging.rules import Combination, Linear, Logistic, Rule, Votes
from onnxopt.merging.written import build, build_fused
from tests.merging.models import from_text

ROWS, TABLE, IMAGE = "float[N, 6] x", "float[N, 5, 6] x", "float[N, 4, 6, 6] x"
SHAPES = {ROWS: (6,), TABLE: (5, 6), IMAGE: (4, 6, 6)}
WEIGHTS = {
    "m": (6, 6),
    "v": (6,),
    "u": (6,),
    "one": (1,),
    "q": (1, 5, 6),
    "pic": (1, 4, 6, 6),
    "k": (4, 4, 3, 3),
    "k1": (8, 4, 1, 1),
    "k8": (8, 4, 3, 3),
    "kt": (4, 3, 3, 3),
    "deep": (8, 1, 3, 3),
    "c": (4,),
    "c1": (1, 4, 1, 1),
    "var": (4,),
    "table": (7, 6),
    "cls": (1, 1, 6),
    "wx": (1, 24, 6),
    "wr": (1, 24, 6),
}
POSITIVE = {"var"}
CASES = {
    "matmul": (ROWS, "y = MatMul(x, m)"),
    "two": (ROWS, "a = MatMul(x, m)  r = Relu(a)  y = MatMul(r, m)"),
    "gemm": (ROWS, "a = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, m, v)  y = Gemm<alpha = 2.0>(a, m)"),
    "gemm bias of one": (ROWS, "a = Gemm(x, m, one)  y = Gemm(a, m, one)"),
    "bias first": (ROWS, "a = Sub(x, v)  y = Mul(a, u)"),
    "rows normalized": (ROWS, "a = MatMul(x, m)  y = BatchNormalization(a, v, u, v, p6)"),
    "layer norm": (TABLE, "a = MatMul(x, m)  y = LayerNormalization<axis = -1, epsilon = 0.1>(a, v, u)"),
    "layer norm of the input": (TABLE, "y = LayerNormalization<axis = 2>(x, v)"),
    "attention": (
        TABLE,
        """
        a = LayerNormalization(x, v, u)
        q1 = MatMul(a, m)  k1_ = MatMul(a, m2)  v1 = MatMul(a, m3)
        s = Shape(q1)  i0 = Constant<value = int64[1] {0}>()  i1 = Constant<value = int64[1] {1}>()
        n = Gather(s, i0)  l = Gather(s, i1)
        hd = Constant<value = int64[2] {2, 3}>()  full = Constant<value = int64[1] {6}>()
        s4 = Concat<axis = 0>(n, l, hd)  s3 = Concat<axis = 0>(n, l, full)
        q4 = Reshape(q1, s4)  k4 = Reshape(k1_, s4)  v4 = Reshape(v1, s4)
        qt = Transpose<perm = [0, 2, 1, 3]>(q4)  kt_ = Transpose<perm = [0, 2, 3, 1]>(k4)
        vt = Transpose<perm = [0, 2, 1, 3]>(v4)
        dots = MatMul(qt, kt_)  p = Softmax<axis = -1>(dots)  o = MatMul(p, vt)
        ot = Transpose<perm = [0, 2, 1, 3]>(o)  o3 = Reshape(ot, s3)  f = MatMul(o3, m4)  y = Add(x, f)
        """,
    ),
    "class token": (
        TABLE,
        """
        s = Shape<start = 0, end = 1>(x)  tail = Constant<value = int64[2] {1, 6}>()  w = Concat<axis = 0>(s, tail)
        c0 = Expand(cls, w)  a = MatMul(x, m)  y = Concat<axis = 1>(c0, a)
        """,
    ),
    "positions": (TABLE, "a = Add(x, q)  b = Erf(a)  y = Mul(b, v)"),
    "reduced": (TABLE, "a = MatMul(x, m)  b = ReduceMean<axes = [1], keepdims = 0>(a)  y = MatMul(b, m)"),
    "cut": (
        TABLE,
        """
        a = MatMul(x, m)  one_ = Constant<value = int64[1] {1}>()  two_ = Constant<value = int64[1] {2}>()
        b = Slice(a, one_, two_, one_)  c_ = Squeeze(b, one_)  y = Unsqueeze(c_, one_)
        """,
    ),
    "split": (TABLE, "a = MatMul(x, m)  b, d = Split<axis = -1>(a)  e = Sigmoid(b)  y = Mul(e, d)"),
    "reshaped": (
        TABLE,
        "a = MatMul(x, m)  s = Constant<value = int64[3] {0, 3, -1}>()  y = Reshape(a, s)",
    ),
    "flattened": (TABLE, "a = MatMul(x, m)  y = Flatten(a)"),
    "limited": (ROWS, "a = MatMul(x, m)  l = Constant<value = float {0.0}>()  y = Clip(a, l)"),
    "chosen": (ROWS, "a = MatMul(x, m)  b = Greater(a, v)  y = Where(b, a, u)"),
    "rare functions": (
        ROWS,
        """
        a = MatMul(x, m)  b = Asinh(a)  d = Sinh(b)  e = Shrink<lambd = 0.1, bias = 0.1>(d)  f = IsNaN(e)
        g = Where(f, u, e)  h = Cosh(b)  i = Atanh(x)  j = IsInf(i)  n = Where(j, h, g)  y = Mul(n, b)
        """,
    ),
    "conv": (IMAGE, "y = Conv<pads = [1, 1, 1, 1]>(x, k, c)"),
    "convs": (IMAGE, "a = Conv(x, k8)  b = Relu(a)  d = Conv<group = 8>(b, deep)  y = GlobalAveragePool(d)"),
    "grouped input": (IMAGE, "y = Conv<group = 4>(x, kg, c)"),
    "turned": (IMAGE, "a = ConvTranspose(x, kt)  y = Relu(a)"),
    "normalized": (IMAGE, "a = Conv(x, k)  y = BatchNormalization(a, c, c, c, var)"),
    "normalized input": (IMAGE, "a = BatchNormalization(x, c, c, c, var)  y = Conv(a, k)"),
    "instance": (IMAGE, "a = Conv(x, k)  y = InstanceNormalization(a, c, c)"),
    "pooled": (
        IMAGE,
        "a = Conv(x, k)  b = MaxPool<kernel_shape = [2, 2]>(a)  y = AveragePool<kernel_shape = [2, 2]>(b)",
    ),
    "residual": (IMAGE, "a = Conv<pads = [1, 1, 1, 1]>(x, k)  b = Add(a, x)  y = Conv(b, k)"),
    "scaled channels": (IMAGE, "a = Conv(x, k)  b = Mul(a, c1)  d = Add(b, one)  y = PRelu(d, c1)"),
    "a picture added": (IMAGE, "a = Conv<pads = [1, 1, 1, 1]>(x, k)  y = Add(a, pic)"),
    "squeeze and excite": (
        IMAGE,
        "a = Conv(x, k)  g = GlobalAveragePool(a)  h = Conv(g, k11)  s = Sigmoid(h)  y = Mul(a, s)",
    ),
    "to rows": (IMAGE, "a = Conv(x, k)  g = ReduceMean<axes = [2, 3], keepdims = 0>(a)  y = Gemm(g, k44)"),
    "rare functions of channels": (
        IMAGE,
        "a = Conv(x, k)  b = Tan(a)  d = Shrink(b)  e = IsInf(d)  f = Where(e, a, d)  y = Conv(f, k11)",
    ),
    "rare sums of channels": (
        IMAGE,
        """
        a = Conv(x, k)  b = ReduceL1<axes = [2, 3]>(a)  d = ReduceLogSumExp<axes = [-1, -2]>(a)
        e = ReduceSumSquare<axes = [2, 3]>(a)  f = ReduceProd<axes = [3]>(a)  g = ReduceLogSum<axes = [2]>(e)
        h = Add(b, d)  i = Add(h, g)  j = ReduceMax<axes = [2]>(f)  y = Add(i, j)
        """,
    ),
    "to rows by flatten": (IMAGE, "a = Conv(x, k)  g = Flatten(a)  y = Gemm(g, wide)"),
    "to rows by reshape": (
        IMAGE,
        "a = Conv(x, k)  s = Constant<value = int64[2] {0, -1}>()  g = Reshape(a, s)  y = Gemm(g, wide)",
    ),
    "channels joined": (IMAGE, "a = Conv(x, k)  b = Relu(a)  d = Concat<axis = 1>(a, b)  y = Conv(d, k88)"),
    "enlarged": (
        IMAGE,
        "a = Conv(x, k)  f = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()  y = Resize<mode = \"nearest\">(a, , f)",
    ),
    "widened": (
        IMAGE,
        "a = Conv(x, k)  w = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()  y = Pad(a, w)",
    ),
    "relu six": (
        IMAGE,
        "a = Conv(x, k)  l = Constant<value = float {0.0}>()  h = Constant<value = float {6.0}>()  y = Clip(a, l, h)",
    ),
}  # fmt: skip
WEIGHTS |= {"m2": (6, 6), "m3": (6, 6), "m4": (6, 6), "kg": (4, 1, 3, 3), "k11": (4, 4, 1, 1), "k44": (4, 3)}
WEIGHTS |= {"wide": (64, 3), "k88": (4, 8, 3, 3), "p6": (6,)}
POSITIVE |= {"p6"}


def members(folder: Path, texts: list[str], signature: str, opset: int = 17) -> list[Path]:
    paths: list[Path] = []
    for i, text in enumerate(texts):
        rng = np.random.default_rng(i)
        used = {
            n: s for n, s in WEIGHTS.items() if any(f"{n}{end}" in text for end in (")", ",")) and f" {n} =" not in text
        }
        arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in used.items()}
        arrays |= {n: np.abs(a) + 0.5 for n, a in arrays.items() if n in POSITIVE}
        body = f'<ir_version: 8, opset_import: ["" : {opset}]> net ({signature}) => (float[] y) {{ {text} }}'
        paths.append(from_text(folder / f"{i}.onnx", body, **arrays))
    return paths


def fused(paths: list[Path], folder: Path, rule: Rule | None = None, shapes: tuple[int, ...] = ()) -> Fused:
    """Builds both files, compares them on batches of 1 and 3."""
    found, _ = same_opsets([prepare(p.name, p, load(p), None) for p in paths])
    alignment = align_inputs(found)
    count = len(paths)
    combination = Combination(tuple(range(count)), (Form(),) * count, rule or Linear((1 / count,) * count))
    plain, _ = build(alignment, combination)
    result = build_fused(alignment, combination)
    assert result is not None
    save_scratch(plain, folder / "plain.onnx")
    save_scratch(result[0], folder / "fused.onnx")
    one, two = (
        ort.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
        for name in ("plain.onnx", "fused.onnx")
    )
    for batch in (1, 3):
        x = np.random.default_rng(batch).standard_normal((batch, *shapes)).astype(np.float32)
        wanted, given = one.run(None, {"x": x})[0], two.run(None, {"x": x})[0]
        assert wanted.shape == given.shape
        assert np.abs(wanted - given).max() <= 1e-5 * max(1, np.abs(wanted).max())
    return result[1]


@pytest.mark.parametrize("name", CASES)
def test_operators_run_once_for_all_members(tmp_path: Path, name: str) -> None:
    signature, text = CASES[name]
    found = fused(members(tmp_path, [text] * 3, signature), tmp_path, shapes=SHAPES[signature])
    assert found.stacked is not None
    assert not found.notes
    kinds = [n.op_type for n in load(tmp_path / "fused.onnx").graph]
    heavy = {"MatMul", "Gemm", "Conv", "ConvTranspose", "LayerNormalization", "Softmax", "Relu", "MaxPool"}
    own = [n.op_type for n in load(tmp_path / "0.onnx").graph]
    assert all(kinds.count(op) <= own.count(op) + own.count("Gemm") for op in heavy)


@pytest.mark.parametrize("opset", [13, 18, 21])
@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize(
    "rule",
    [Linear((0.2, 0.3, 0.5)), Votes(1), Votes(None, 0.1), Logistic(((0.5, -1.0),) * 18, (0.1, 0.2), 1, "softmax")],
    ids=lambda rule: type(rule).__name__,
)
def test_each_rule_takes_what_is_stacked(tmp_path: Path, rule: Rule, opset: int, batch: int | str) -> None:
    text = "a = MatMul(x, m)  r = Relu(a)  y = MatMul(r, m)"
    signature = ROWS.replace("N", str(batch))
    paths = members(tmp_path, [text] * 3, signature, opset)
    if batch == 1:
        found, _ = same_opsets([prepare(p.name, p, load(p), None) for p in paths])
        assert build_fused(align_inputs(found), Combination((0, 1, 2), (Form(),) * 3, rule)) is not None
        return
    assert fused(paths, tmp_path, rule, (6,)).stacked is not None


def test_an_operator_without_a_rule_stays_one_a_member(tmp_path: Path) -> None:
    text = """
        a = MatMul(x, m)  b = Relu(a)  ax = Constant<value = int64 {1}>()  d = CumSum(b, ax)  e = Tanh(d)
        y = MatMul(e, m2)
    """
    found = fused(members(tmp_path, [text] * 3, ROWS), tmp_path, shapes=(6,))
    assert [(n.node.split()[0], n.reason) for n in found.notes] == [
        ("CumSum", "the operator has no rule"),
        ("Tanh", "what it reads is computed one by one"),
    ]
    kinds = [n.op_type for n in load(tmp_path / "fused.onnx").graph]
    assert [kinds.count(op) for op in ("MatMul", "Relu", "CumSum", "Tanh")] == [2, 1, 3, 3]


def test_those_alike_of_several_are_computed_together(tmp_path: Path) -> None:
    alike, other = "a = MatMul(x, m)  r = Relu(a)  y = MatMul(r, m2)", "r = Relu(x)  y = MatMul(r, m2)"
    found = fused(members(tmp_path, [alike, other, alike], ROWS), tmp_path, shapes=(6,))
    assert (found.members, found.stacked) == (2, None)
    assert sum(n.op_type == "MatMul" for n in load(tmp_path / "fused.onnx").graph) == 3


def test_a_trunk_that_all_share_stays_one(tmp_path: Path) -> None:
    text = "a = MatMul(x, m)  r = Relu(a)  y = MatMul(r, m2)"
    paths = members(tmp_path, [text] * 3, ROWS)
    rng = np.random.default_rng(9)
    trunk = rng.standard_normal((6, 6)).astype(np.float32)
    body = f'<ir_version: 8, opset_import: ["" : 17]> net ({ROWS}) => (float[] y) {{ {text} }}'
    for path in paths:
        from_text(path, body, m=trunk, m2=rng.standard_normal((6, 6)).astype(np.float32))
    assert fused(paths, tmp_path, shapes=(6,)).operators == 1
    shapes = [tuple(v.const_value.shape) for v in load(tmp_path / "fused.onnx").graph.initializers.values()]
    assert sorted(s for s in shapes if len(s) == 2) == [(6, 6), (6, 18)]


def test_a_trunk_that_some_share_is_not_computed_again(tmp_path: Path) -> None:
    text = "a = MatMul(x, m)  r = Relu(a)  y = MatMul(r, m2)"
    paths = members(tmp_path, [text] * 3, ROWS)
    rng = np.random.default_rng(9)
    trunk = rng.standard_normal((6, 6)).astype(np.float32)
    body = f'<ir_version: 8, opset_import: ["" : 17]> net ({ROWS}) => (float[] y) {{ {text} }}'
    for path in paths[:2]:
        from_text(path, body, m=trunk, m2=rng.standard_normal((6, 6)).astype(np.float32))
    found = fused(paths, tmp_path, shapes=(6,))
    assert "some members share it already" in {n.reason for n in found.notes}


def test_members_of_other_attributes_or_widths_are_not_alike(tmp_path: Path) -> None:
    texts = ["a = MatMul(x, m)  y = LeakyRelu<alpha = 0.1>(a)", "a = MatMul(x, m)  y = LeakyRelu<alpha = 0.2>(a)"]
    found, _ = same_opsets([prepare(p.name, p, load(p), None) for p in members(tmp_path, texts, ROWS)])
    assert build_fused(align_inputs(found), Combination((0, 1), (Form(),) * 2, Linear((0.5, 0.5)))) is None
