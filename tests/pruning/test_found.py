"""What random graphs (``test_fuzz.py``) found, each on the smallest graph that shows it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxopt.core.io import load
from tests.pruning.conftest import Bench

IMAGE = {"x": np.random.default_rng(7).standard_normal((2, 3, 4, 4)).astype(np.float32)}


def test_a_part_of_an_axis_keeps_a_channel(bench: Bench) -> None:
    """All channels are alike: the last Conv reads all; but those of the part alone cannot all go."""
    model = bench.build("""net (float[N, 3, 4, 4] x) => (float[N, 5, 1, 1] y) {
        c = Conv(x, wc)
        sizes = Constant<value_ints = [2, 6]>()
        d, e = Split<axis = 1>(c, sizes)
        m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d)
        n = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)
        f = Concat<axis = 1>(m, n)
        g = GlobalAveragePool(f)
        y = Conv(g, wy)
    }""")
    bench.check(bench.weights(model, wc=(8, 3, 1, 1), wy=(5, 10, 1, 1)), IMAGE, seeds=8)


def test_a_part_of_one_channel_stays(bench: Bench) -> None:
    """An axis of size 1 has no place in the weights behind Flatten."""
    model = bench.build("""net (float[N, 3, 4, 4] x) => (float[N, 5] y, float[N, 5, 1, 1] z) {
        c = Conv(x, wc)
        sizes = Constant<value_ints = [1, 3]>()
        d, e = Split<axis = 1>(c, sizes)
        f = Flatten(d)
        y = Gemm<transB = 1>(f, wy)
        g = GlobalAveragePool(c)
        z = Conv(g, wz)
    }""")
    bench.check(bench.weights(model, wc=(4, 3, 1, 1), wy=(5, 16), wz=(5, 4, 1, 1)), IMAGE, seeds=8)


def test_indices_of_max_pool_number_all_channels(bench: Bench) -> None:
    model = bench.build("""net (float[N, 3, 4, 4] x) => (float[N, 5, 2, 2] y) {
        a = Conv(x, wa)
        b = Conv(a, wb)
        c, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b)
        f = Cast<to = 1>(i)
        d = Add(c, f)
        y = Conv(d, wy)
    }""")
    model = bench.weights(model, wa=(6, 3, 1, 1), wb=(8, 6, 1, 1), wy=(5, 8, 1, 1))
    assert bench.units(model, IMAGE) == [6]
    bench.check(model, IMAGE)


def test_einsum_needs_a_constant_with_the_letter_it_sums_over(bench: Bench) -> None:
    model = bench.build("""net (float[2, 6] x) => (float[2, 2, 5] y) {
        a = MatMul(x, wa)
        b = MatMul(a, wb)
        c = Sigmoid(b)
        y = Einsum<equation = "bd,cd,k->bck">(c, c, wk)
    }""")
    feeds = {"x": np.random.default_rng(7).standard_normal((2, 6)).astype(np.float32)}
    model = bench.weights(model, wa=(6, 7), wb=(7, 8), wk=(5,))
    assert bench.units(model, feeds) == [7]
    bench.check(model, feeds)


def test_the_mean_of_a_layer_norm_has_the_other_axes(bench: Bench) -> None:
    """As an output of the model it keeps them."""
    model = bench.build("""net (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y, float[N, 8, 4, 1] mean) {
        a = Conv(x, wa)
        b = Conv(a, wb)
        c, mean = LayerNormalization<axis = -1>(b, s, t)
        y = Conv(c, wy)
    }""")
    model = bench.weights(model, wa=(6, 3, 1, 1), wb=(8, 6, 1, 1), s=(4,), t=(4,), wy=(5, 8, 1, 1))
    assert bench.units(model, IMAGE) == [6]
    bench.check(model, IMAGE)


def test_sizes_that_a_model_gives_stay(bench: Bench) -> None:
    model = bench.build("""net (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y, int64[4] size, float[1] channels) {
        a = Conv(x, wa)
        b = Conv(a, wb)
        c = Conv(b, wc)
        size = Shape(b)
        shape = Shape(c)
        one = Constant<value_ints = [1]>()
        count = Gather(shape, one)
        channels = Cast<to = 1>(count)
        y = Conv(c, wy)
    }""")
    model = bench.weights(model, wa=(6, 3, 1, 1), wb=(8, 6, 1, 1), wc=(7, 8, 1, 1), wy=(5, 7, 1, 1))
    assert bench.units(model, IMAGE) == [6]
    bench.check(model, IMAGE)


@pytest.mark.parametrize("picks", ["[1]", "[1, 2]"], ids=["one", "several"])
def test_products_of_sizes_that_are_numbers_stay(bench: Bench, picks: str) -> None:
    model = bench.build(f"""net (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y) {{
        a = Conv(x, wa)
        b = Conv(a, wb)
        shape = Shape(b)
        picks = Constant<value_ints = {picks}>()
        sizes = Gather(shape, picks)
        squares = Mul(sizes, sizes)
        numbers = Cast<to = 1>(squares)
        roots = Sqrt(numbers)
        all = ReduceSum<keepdims = 0>(roots)
        c = Div(b, all)
        y = Conv(c, wy)
    }}""")
    model = bench.weights(model, wa=(6, 3, 1, 1), wb=(8, 6, 1, 1), wy=(5, 8, 1, 1))
    assert bench.units(model, IMAGE) == [6]
    bench.check(model, IMAGE)


@pytest.mark.parametrize("flag", [0, 1])
def test_branches_that_use_the_same_names_stay(bench: Bench, flag: int) -> None:
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def branch(name: str, width: int) -> onnx.GraphProto:
        nodes = [helper.make_node("Conv", ["b", "w"], ["h"]), helper.make_node("Conv", ["h", "v"], ["y"])]
        weights = [weight("w", width, 8, 1, 1), weight("v", 5, width, 1, 1)]
        return helper.make_graph(nodes, name, [], [value("y", TensorProto.FLOAT, None)], weights)

    nodes = [
        helper.make_node("Conv", ["x", "wa"], ["a"]),
        helper.make_node("Conv", ["a", "wb"], ["b"]),
        helper.make_node("If", ["flag"], ["z"], then_branch=branch("one", 6), else_branch=branch("two", 7)),
    ]
    given = [weight("wa", 9, 3, 1, 1), weight("wb", 8, 9, 1, 1), numpy_helper.from_array(np.array(bool(flag)), "flag")]
    ends = [value("x", TensorProto.FLOAT, ["N", 3, 4, 4])], [value("z", TensorProto.FLOAT, ["N", 5, 4, 4])]
    graph = helper.make_graph(nodes, "net", *ends, given)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, bench.folder / "m.onnx")
    model = load(bench.folder / "m.onnx")
    assert bench.units(model, IMAGE) == [9]
    bench.check(model, IMAGE)
