"""Each rule of ``onnxopt.pruning.rules`` on the smallest graph that needs it: cutting equals zeroing, units are found.

``IN`` is (batch, 3, 8, 8); every graph ends in a Gemm or MatMul to 5 outputs unless it says otherwise.
"""

from __future__ import annotations

import pytest

from tests.pruning.conftest import Bench
from tests.pruning.feeds import image, sequence

CONV = (8, 3, 3, 3)
HEAD = "g = GlobalAveragePool({0})\n f = Flatten(g)\n y = Gemm<transB = 1>(f, wy, by)"


def convnet(body: str, last: str) -> str:
    """A graph from an image through ``body``, which reads ``a`` (8 channels), to a Gemm over ``last``."""
    head = HEAD.format(last)
    return (
        "net (float[N, 3, 8, 8] x) => (float[N, 5] y) {\n"
        " a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, wa, ba)\n"
        f" {body}\n {head}\n}}"
    )


BASE = {"wa": CONV, "ba": (8,), "by": (5,)}
IMAGES: dict[str, tuple[str, str, dict[str, tuple[int, ...]], list[int]]] = {
    "relu": ("b = Relu(a)", "b", {"wy": (5, 8)}, [8]),
    "clip": ("b = Clip(a, lo, hi)", "b", {"wy": (5, 8), "lo": (), "hi": ()}, [8]),
    "batch norm": (
        "b = BatchNormalization(a, s, t, m, var)",
        "b",
        {"wy": (5, 8), "s": (8,), "t": (8,), "m": (8,), "var": (8,)},
        [8],
    ),
    "instance norm": ("b = InstanceNormalization(a, s, t)", "b", {"wy": (5, 8), "s": (8,), "t": (8,)}, [8]),
    "prelu": ("b = PRelu(a, s)", "b", {"wy": (5, 8), "s": (8, 1, 1)}, [8]),
    "channel constants": (
        "b = Mul(a, s)\n c = Add(t, b)\n d = Div(c, u)\n e = Sub(d, t)",
        "e",
        {"wy": (5, 8), "s": (8, 1, 1), "t": (1, 8, 1, 1), "u": (8, 1, 1)},
        [8],
    ),
    "residual": (
        "b = Relu(a)\n c = Conv<pads = [1, 1, 1, 1]>(b, wc)\n d = Add(c, a)\n e = Relu(d)",
        "e",
        {"wc": (8, 8, 3, 3), "wy": (5, 8)},
        [8],
    ),
    "bottleneck": (
        "b = Conv(a, wb, bb)\n r = Relu(b)\n c = Conv<pads = [1, 1, 1, 1]>(r, wc)\n d = Add(c, a)",
        "d",
        {"wb": (6, 8, 1, 1), "bb": (6,), "wc": (8, 6, 3, 3), "wy": (5, 8)},
        [8, 6],
    ),
    "depthwise": (
        "b = Conv<group = 8, pads = [1, 1, 1, 1]>(a, wb, bb)\n c = Sigmoid(b)",
        "c",
        {"wb": (8, 1, 3, 3), "bb": (8,), "wy": (5, 8)},
        [8],
    ),
    "depth multiplier": (
        "b = Conv<group = 8, pads = [1, 1, 1, 1]>(a, wb, bb)",
        "b",
        {"wb": (16, 1, 3, 3), "bb": (16,), "wy": (5, 16)},
        [8],
    ),
    "grouped": (
        "b = Conv<group = 2>(a, wb, bb)\n r = Relu(b)",
        "r",
        {"wb": (12, 4, 3, 3), "bb": (12,), "wy": (5, 12)},
        [4, 6],
    ),
    "transposed": (
        "b = ConvTranspose<strides = [2, 2]>(a, wb, bb)\n r = Relu(b)",
        "r",
        {"wb": (8, 6, 2, 2), "bb": (6,), "wy": (5, 6)},
        [8, 6],
    ),
    "transposed, depthwise": (
        "b = ConvTranspose<strides = [2, 2], group = 8>(a, wb, bb)",
        "b",
        {"wb": (8, 1, 2, 2), "bb": (8,), "wy": (5, 8)},
        [8],
    ),
    "squeeze and excite": (
        "g0 = GlobalAveragePool(a)\n h = Conv(g0, w1)\n i = Relu(h)\n"
        " j = Conv(i, w2, b2)\n k = Sigmoid(j)\n b = Mul(a, k)",
        "b",
        {"w1": (4, 8, 1, 1), "w2": (8, 4, 1, 1), "b2": (8,), "wy": (5, 8)},
        [8, 4],
    ),
    "concat": (
        "b = Conv(x, wb)\n c = Conv<pads = [1, 1, 1, 1]>(b, wc)\n p = Conv(x, wp)\n d = Concat<axis = 1>(a, c, p)",
        "d",
        {"wb": (4, 3, 1, 1), "wc": (6, 4, 3, 3), "wp": (3, 3, 1, 1), "wy": (5, 17)},
        [8, 4, 6, 3],
    ),
    "split by input": (
        "b, c = Split<axis = 1>(a, sizes)\n d = Conv(b, wb)\n e = Conv(c, wc)\n f0 = Add(d, e)",
        "f0",
        {"wb": (6, 3, 1, 1), "wc": (6, 5, 1, 1), "wy": (5, 6)},
        [3, 5, 6],
    ),
    "slice": (
        "b = Slice(a, start, end, axes)\n c = Relu(b)",
        "c",
        {"wy": (5, 5)},
        [5, 3],  # three that nothing reads
    ),
    "gather": ("b = Gather<axis = 1>(a, picks)", "b", {"wy": (5, 4)}, [4, 4]),
    "channel shuffle": (
        "b = Reshape(a, s1)\n c = Transpose<perm = [0, 2, 1, 3, 4]>(b)\n d = Reshape(c, s2)\n e = Relu(d)",
        "e",
        {"wy": (5, 8)},
        [4],
    ),
    "depth to space": ("b = DepthToSpace<blocksize = 2>(a)", "b", {"wy": (5, 2)}, [2]),
    "depth to space, CRD": ('b = DepthToSpace<blocksize = 2, mode = "CRD">(a)', "b", {"wy": (5, 2)}, [2]),
    "space to depth": ("b = SpaceToDepth<blocksize = 2>(a)", "b", {"wy": (5, 32)}, [8]),
    "pad and pool": (
        "b = Pad(a, pads)\n c = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)\n"
        " d = AveragePool<kernel_shape = [2, 2]>(c)",
        "d",
        {"wy": (5, 8)},
        [8],
    ),
    "resize by scales": ('b = Resize<mode = "nearest">(a, , scales)', "b", {"wy": (5, 8)}, [8]),
    "resize by sizes": ('b = Resize<mode = "linear">(a, , , newsize)', "b", {"wy": (5, 8)}, [8]),
    "where and max": (
        "c = Conv(x, wc)\n m = Greater(a, c)\n b = Where(m, a, c)\n d = Max(b, zero)",
        "d",
        {"wc": (8, 3, 1, 1), "wy": (5, 8)},
        [8],
    ),
    "tile": ("b = Tile(a, reps)", "b", {"wy": (5, 16)}, [8]),
    "group norm as exported": (
        "b = Reshape(a, s3)\n c = InstanceNormalization(b, s, t)\n d = Reshape(c, s2)\n e = Mul(d, u)\n e2 = Add(e, u)",
        "e2",
        {"s": (4,), "t": (4,), "u": (8, 1, 1), "wy": (5, 8)},
        [4],
    ),
    "mean over space": ("b = ReduceMean<axes = [2, 3], keepdims = 1>(a)", "b", {"wy": (5, 8)}, [8]),
    "shared weights": (
        "b = Relu(a)\n c = Conv<pads = [1, 1, 1, 1]>(b, wc)\n d = Relu(c)\n e = Conv<pads = [1, 1, 1, 1]>(d, wc)",
        "e",
        {"wc": (8, 8, 3, 3), "wy": (5, 8)},
        [8],
    ),
    "if": (
        "m = ReduceMean<keepdims = 0>(x)\n t = Greater(m, nought)\n"
        " b = If(t)<then_branch = one () => (float[N, 8, 8, 8] u) { u = Relu(a) },"
        " else_branch = two () => (float[N, 8, 8, 8] v) { w0 = Conv(a, wi)\n w1 = Relu(w0)\n v = Conv(w1, wj) }>",
        "b",
        {"wi": (6, 8, 1, 1), "wj": (8, 6, 1, 1), "wy": (5, 8)},
        [6],
    ),
}
INTEGERS = {
    "sizes": [3, 5],
    "start": [1],
    "end": [6],
    "axes": [1],
    "picks": [7, 0, -3, 2],
    "s1": [0, 2, 4, 8, 8],
    "s2": [-1, 8, 8, 8],
    "s3": [0, 4, -1],
    "pads": [0, 0, 1, 1, 0, 0, 1, 1],
    "newsize": [1, 8, 16, 16],
    "reps": [1, 2, 1, 1],
}
FLOATS = {"lo": -0.5, "hi": 1.0, "zero": 0.0, "nought": 0.0}


def constants(text: str) -> str:
    """Adds those constants of ``INTEGERS``, ``FLOATS`` and ``scales`` that the text reads, as Constant nodes."""
    found: list[str] = []
    for name, values in INTEGERS.items():
        if any(f"{name}{end}" in text for end in (",", ")")):
            found.append(f"{name} = Constant<value = int64[{len(values)}] {{{', '.join(map(str, values))}}}>()")
    for name, value in FLOATS.items():
        if any(f" {name}{end}" in text for end in (",", ")")):
            found.append(f"{name} = Constant<value = float {{{value}}}>()")
    if "scales)" in text:
        found.append("scales = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()")
    head, _, rest = text.partition("{\n")
    return head + "{\n" + "".join(f" {line}\n" for line in found) + rest


@pytest.mark.parametrize("name", IMAGES)
def test_convolutional(name: str, bench: Bench) -> None:
    body, last, shapes, units = IMAGES[name]
    text = constants(convnet(body, last))
    model = bench.weights(bench.build(text), **BASE, **{k: v for k, v in shapes.items() if k not in FLOATS})
    assert sorted(bench.units(model, image())) == sorted(units)
    batches = () if "newsize" in text else (image(3),)
    bench.check(model, image(), *batches)


def test_a_computed_shape_is_rewritten_for_its_reader_only(bench: Bench) -> None:
    text = """
    net (float[N, T, 8] x) => (float[N, T, 5] y, float[N, T, 2, 6] z) {
      zero = Constant<value = int64 {0}>()
      one = Constant<value = int64 {1}>()
      ax = Constant<value = int64[1] {0}>()
      two = Constant<value = int64[1] {2}>()
      six = Constant<value = int64[1] {6}>()
      sh = Shape(x)
      n0 = Gather<axis = 0>(sh, zero)
      t0 = Gather<axis = 0>(sh, one)
      n = Unsqueeze(n0, ax)
      t = Unsqueeze(t0, ax)
      shape = Concat<axis = 0>(n, t, two, six)
      a = MatMul(x, wa)
      b = Reshape(a, shape)
      c = Relu(b)
      twelve = Constant<value = int64[3] {0, 0, -1}>()
      d = Reshape(c, twelve)
      y = MatMul(d, wy)
      e = MatMul(x, we)
      z = Reshape(e, shape)
    }
    """
    model = bench.weights(bench.build(text), wa=(8, 12), wy=(12, 5), we=(8, 12))
    assert bench.units(model, sequence()) == [6]
    bench.check(model, sequence(), sequence(3, 4))


@pytest.mark.parametrize("op, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_hidden_units_of_recurrences(op: str, gates: int, directions: int, bench: Bench) -> None:
    kind = "bidirectional" if directions == 2 else "forward"
    text = f"""
    net (float[T, N, 8] x) => (float[T, N, 5] y, float[{directions}, N, 6] h) {{
      last = Constant<value = int64[3] {{0, 0, -1}}>()
      a = MatMul(x, wa)
      r, h0 = {op}<hidden_size = 6, direction = "{kind}">(a, w, rr, b)
      s = Transpose<perm = [0, 2, 1, 3]>(r)
      t = Reshape(s, last)
      y = MatMul(t, wy)
      h = Identity(h0)
    }}
    """
    text = text.replace(f", float[{directions}, N, 6] h) =>", ") =>").replace(f", float[{directions}, N, 6] h)", ")")
    text = text.replace("      h = Identity(h0)\n", "")
    shapes = {"wa": (8, 7), "w": (directions, 6 * gates, 7), "rr": (directions, 6 * gates, 6)}
    shapes |= {"b": (directions, 12 * gates), "wy": (6 * directions, 5)}
    model = bench.weights(bench.build(text), **shapes)
    assert sorted(bench.units(model, sequence())) == [6, 7]
    bench.check(model, sequence(), sequence(9, 2))


@pytest.mark.parametrize("version", [7, 9, 11, 12])
def test_old_opsets_have_their_numbers_in_attributes(version: int, bench: Bench) -> None:
    sliced = "b = Slice<axes = [1], starts = [2], ends = [8]>(a)" if version < 10 else "b = Slice(a, s, e, ax)"
    given = (
        ""
        if version < 10
        else "s = Constant<value = int64[1] {2}>()\n e = Constant<value = int64[1] {8}>()\n"
        " ax = Constant<value = int64[1] {1}>()\n"
    )
    text = (
        "net (float[1, 3, 8, 8] x) => (float[1, 5] y) {\n"
        f" {given} a = Conv<pads = [1, 1, 1, 1]>(x, wa)\n {sliced}\n c, d = Split<axis = 1, split = [2, 4]>(b)\n"
        " e1 = Conv(c, wc)\n e2 = Conv(d, wd)\n f0 = Add(e1, e2)\n g = GlobalAveragePool(f0)\n f = Flatten(g)\n"
        " y = Gemm<transB = 1>(f, wy, by)\n}"
    )
    model = bench.build(text, f'<ir_version: 6, opset_import: ["" : {version}]>')
    model = bench.weights(model, wa=CONV, wc=(6, 2, 1, 1), wd=(6, 4, 1, 1), wy=(5, 6), by=(5,))
    assert sorted(bench.units(model, image())) == [2, 2, 4, 6]
    bench.check(model, image())


def test_einsum_is_followed(bench: Bench) -> None:
    text = """
    net (float[N, T, 8] x) => (float[N, T, 5] y) {
      a = Einsum<equation = "btc,cd->btd">(x, wa)
      b = Tanh(a)
      y = Einsum<equation = "btd,de->bte">(b, wy)
    }
    """
    model = bench.weights(bench.build(text), wa=(8, 7), wy=(7, 5))
    assert bench.units(model, sequence()) == [7]
    bench.check(model, sequence(), sequence(2, 5))


def test_a_constant_on_the_left_of_a_product(bench: Bench) -> None:
    text = """
    net (float[N, 6, 8] x) => (float[N, 5, 8] y) {
      a = MatMul(wa, x)
      b = Relu(a)
      c = MatMul(wc, b)
      d = Tanh(c)
      y = MatMul(wy, d)
    }
    """
    model = bench.weights(bench.build(text), wa=(9, 6), wc=(7, 9), wy=(5, 7))
    structure = bench.structure(model, sequence(1, 6))
    assert structure.groups == ()  # no layer whose weights are on the right: nothing would be ranked or repaired


@pytest.mark.parametrize(
    "middle, reason",
    [
        ("b = Softmax<axis = 1>(a)", "Softmax"),
        ("b = ReduceSum<keepdims = 1>(a, axes)", "ReduceSum"),
        ("b = LRN<size = 3>(a)", "LRN"),
        ("b = CumSum(a, axes)", "CumSum"),
        ("b = com.microsoft.Gelu(a)\n m = MatMul(b, a)", ""),
    ],
)
def test_what_mixes_channels_keeps_them(middle: str, reason: str, bench: Bench) -> None:
    last = "m" if " m = " in middle else "b"
    channels = 1 if "ReduceSum" in middle else 8
    text = constants(convnet(middle, last)) if "axes" in middle else convnet(middle, last)
    model = bench.weights(bench.build(text), **BASE, wy=(5, channels))
    kept = [len(g.units) for g in bench.structure(model, image()).groups]
    assert kept == ([] if reason else [8])
