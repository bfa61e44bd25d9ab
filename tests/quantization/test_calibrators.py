"""Ranges against brute force on the very values, and on distributions for which the right answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxopt.quantization.affine import dequantize_array, qparams, quantize_array
from onnxopt.quantization.ranges.calibrators import CALIBRATORS, choose_range
from onnxopt.quantization.ranges.observers import Histogram, Statistics
from onnxopt.quantization.scheme import CPU_X86, PerTensor

U8, S8 = CPU_X86.activations, CPU_X86.weights
SHAPES = {
    "normal": lambda rng: rng.standard_normal(40_000),
    "relu": lambda rng: np.maximum(rng.standard_normal(40_000), 0),
    "laplace": lambda rng: rng.laplace(size=40_000),
    "uniform": lambda rng: rng.uniform(-1, 2, 40_000),
    "outliers": lambda rng: np.append(rng.standard_normal(40_000), [60.0, -45.0]),
    "silu": lambda rng: (x := rng.standard_normal(40_000) * 3) / (1 + np.exp(-x)),
    "small": lambda rng: rng.standard_normal(40_000) * 1e-20,
}


def statistics(*parts):
    found = Statistics(histogram=Histogram())
    for part in parts:
        found = found.update(np.asarray(part, np.float32))
    return found


def error(values, low, high, grid):
    scale, zero = qparams(low, high, grid)
    codes = quantize_array(values, np.asarray(scale), zero, PerTensor(), grid)
    return float(((dequantize_array(codes, np.asarray(scale), zero, PerTensor()) - values.astype(float)) ** 2).mean())


@pytest.mark.parametrize("grid", [U8, S8], ids=["u8", "s8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_close_to_the_least_error_of_any_range(shape, grid):
    values = SHAPES[shape](np.random.default_rng(0)).astype(np.float32)
    low, high = choose_range(statistics(values), "mse", grid)
    found = error(values, low, high, grid)
    extremes = min(values.min(), 0.0), max(values.max(), 0.0)
    shrinks = np.linspace(0.05, 1, 20)
    tried = [(extremes[0] * a, extremes[1] * b) for a in shrinks for b in shrinks]
    assert found <= 1.05 * min(error(values, a, b, grid) for a, b in tried)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("grid", [U8, S8], ids=["u8", "s8"])
@pytest.mark.parametrize("shape", ["normal", "relu", "laplace", "uniform", "silu"])
def test_no_calibrator_ruins_an_ordinary_distribution(shape, grid, calibrator):
    values = SHAPES[shape](np.random.default_rng(1)).astype(np.float32)
    low, high = choose_range(statistics(*values.reshape(8, -1)), calibrator, grid)
    if shape == "relu":
        assert grid.symmetric or low == 0
    assert 10 * np.log10((values**2).mean() / error(values, low, high, grid)) > 28


@pytest.mark.parametrize("calibrator", ["percentile", "percentile-99.9"])
def test_a_lone_outlier_does_not_set_the_range(calibrator):
    values = np.append(np.random.default_rng(0).standard_normal(200_000), 40.0)
    low, high = choose_range(statistics(values), calibrator, U8)
    assert high < 5
    assert -6 < low < -2


@pytest.mark.parametrize(("calibrator", "cut"), [("percentile", 1e-4), ("percentile-99.9", 1e-3)])
def test_a_percentile_keeps_what_it_says(calibrator, cut):
    values = np.random.default_rng(0).standard_normal(500_000).astype(np.float32)
    low, high = choose_range(statistics(values), calibrator, U8)
    expected = np.quantile(values, [cut / 2, 1 - cut / 2])
    np.testing.assert_allclose([low, high], expected, atol=0.01)


def test_the_moving_average_is_the_mean_of_the_ranges_in_any_order():
    parts = [[-1.0, 5.0], [-3.0, 1.0], [-2.0, 6.0]]
    assert choose_range(statistics(*parts), "ema", U8) == (-2.0, 4.0)
    assert choose_range(statistics(*parts[::-1]), "ema", U8) == (-2.0, 4.0)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-42, 3e38])
def test_constants_keep_their_range(calibrator, value):
    low, high = choose_range(statistics(np.full(100, value)), calibrator, U8)
    value = float(np.float32(value))
    assert low == pytest.approx(min(value, 0), rel=0.01)
    assert high == pytest.approx(max(value, 0), rel=0.01)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_outliers_that_leave_no_bins_for_the_rest_fall_back_to_all_values(calibrator):
    values = np.append(np.random.default_rng(0).standard_normal(100_000), -3.4e38)
    low, high = choose_range(statistics(values), calibrator, U8)
    assert low < -1e38
    assert high >= 0


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_no_values_have_the_empty_range(calibrator):
    assert choose_range(statistics(np.zeros((0, 3))), calibrator, U8) == (0.0, 0.0)


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32)), st.sampled_from(CALIBRATORS))
def test_every_range_holds_zero_and_lies_within_the_values(values, calibrator):
    finite = np.append(values[np.isfinite(values)], 0).astype(np.float64)
    for grid in (U8, S8):
        low, high = choose_range(statistics(values), calibrator, grid)
        assert finite.min() <= low <= 0 <= high <= finite.max()
