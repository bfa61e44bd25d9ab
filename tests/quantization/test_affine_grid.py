"""The arithmetic against its definition and against ONNX Runtime's QuantizeLinear."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxopt.quantization.affine import dequantize_array, qparams, quantize_array, weight_scale
from onnxopt.quantization.ranges.observers import MinMax
from onnxopt.quantization.scheme import CPU_X86, Grid, PerAxis, PerTensor

floats = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
U8, S8 = CPU_X86.activations, CPU_X86.weights


@given(floats, floats)
def test_the_grid_covers_the_range_and_holds_zero(a, b):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    scale, zero = qparams(min(a, b), max(a, b), U8)
    assert scale > 0
    assert 0 <= zero <= 255
    assert (0 - zero) * float(scale) - low <= float(scale)
    assert high - (255 - zero) * float(scale) <= float(scale)
    code = quantize_array(np.zeros(1), np.asarray(scale), zero, PerTensor(), U8)
    assert dequantize_array(code, np.asarray(scale), zero, PerTensor()) == 0


@given(st.floats(0.0009765625, 1e6, width=32))
def test_the_grid_of_a_relu6_never_reaches_beyond_its_limit(high):
    scale, zero = qparams(0.0, high, U8)
    assert zero == 0
    assert 255 * float(scale) <= high


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(-100, 100, width=32)))
def test_the_error_of_a_weight_is_at_most_half_a_step(weight):
    axis = PerAxis(0)
    scale = weight_scale(weight, axis, S8)
    used = np.maximum(scale, np.float32(1e-30))
    found = dequantize_array(quantize_array(weight, used, 0, axis, S8), used, 0, axis)
    assert (np.abs(found - weight) <= used[:, None] * 0.501).all()


@settings(max_examples=30)
@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(0, 6), st.just(2)), elements=st.floats(-8, 8, width=32)
    ),
    st.sampled_from([PerAxis(0), PerAxis(1), PerTensor()]),
)
def test_the_scale_of_least_error_is_the_best_of_all_shares(weight, granularity):
    def error(scale):
        used = np.where(scale > 0, scale, np.float32(1))
        found = dequantize_array(quantize_array(weight, used, 0, granularity, S8), used, 0, granularity)
        axes = tuple(a for a in range(3) if a != granularity.axis) if isinstance(granularity, PerAxis) else None
        return ((found.astype(np.float64) - weight) ** 2).sum(axis=axes)

    widest = weight_scale(weight, granularity, S8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxopt.quantization.affine.LEAST_GAIN", 0.0)  # these are few weights
        chosen = weight_scale(weight, granularity, S8, "mse")
    assert chosen.shape == widest.shape
    least = np.min([error(widest * np.float32(i / 100)) for i in range(50, 101)], axis=0)
    assert (error(chosen) <= least * 1.001 + 1e-12).all()


def test_a_lone_outlier_is_clipped_and_its_channel_only():
    weight = np.random.default_rng(0).uniform(-1, 1, (2, 40_000)).astype(np.float32)
    weight[0, 0] = 1.2
    ratio = weight_scale(weight, PerAxis(0), S8, "mse") / weight_scale(weight, PerAxis(0), S8)
    assert ratio[0] < 0.9
    assert ratio[1] > 0.98


@settings(max_examples=30)
@given(arrays(np.float32, 40, elements=st.floats(-10, 10, width=32)))
def test_codes_are_those_of_onnx_runtime(values):
    scale, zero = qparams(float(values.min()), float(values.max()), U8)
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [40])],
        [onnx.helper.make_tensor_value_info("y", 2, [40])],
        [
            onnx.numpy_helper.from_array(np.asarray(scale), "s"),
            onnx.numpy_helper.from_array(np.asarray(zero, np.uint8), "z"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    codes = quantize_array(values, np.asarray(scale), zero, PerTensor(), U8)
    assert (session.run(None, {"x": values})[0] == codes).all()


@given(st.lists(arrays(np.float32, st.integers(0, 6), elements=floats), min_size=1, max_size=6), st.integers(0, 6))
def test_ranges_do_not_depend_on_order_or_split(parts, cut):
    def observe(chunks):
        seen = MinMax()
        for chunk in chunks:
            seen = seen.update(chunk)
        return seen

    whole = observe(parts)
    assert observe(parts[::-1]) == whole
    assert observe(parts[:cut]).merge(observe(parts[cut:])) == whole


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_remembered(bad):
    seen = MinMax().update(np.array([1.0, bad], np.float32))
    assert not seen.finite
    assert not MinMax().update(np.ones(2, np.float32)).merge(seen).finite


def test_a_grid_is_of_eight_bits():
    with pytest.raises(ValueError, match="int16"):
        Grid(np.dtype(np.int16), symmetric=True)
