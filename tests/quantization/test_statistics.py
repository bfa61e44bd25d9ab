"""Statistics are a function of the values seen: no order, split, batch size or merge changes a bit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnxopt.quantization.ranges.observers import ROW, SIDE, Histogram, MinMax, Statistics

WIDE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ANY = st.floats(width=32)
parts_of = lambda values: st.lists(arrays(np.float32, st.integers(0, 9), elements=values), min_size=1, max_size=7)  # noqa: E731


def observe(parts):
    found = Statistics(histogram=Histogram())
    for part in parts:
        found = found.update(part)
    return found


def brute(values, exponent):
    """Counts in exact arithmetic."""
    counts = np.zeros(2 * SIDE, np.int64)
    for value in values:
        numerator, denominator = float(value).as_integer_ratio()
        up, down = (1 << max(-exponent, 0)), (1 << max(exponent, 0))
        magnitude = abs(numerator) * up // (denominator * down)
        counts[SIDE + (magnitude if numerator > 0 else -magnitude)] += 1
    return counts


@given(parts_of(ANY), st.randoms(use_true_random=False))
def test_order_does_not_matter(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert observe(shuffled) == observe(parts)


@given(parts_of(ANY), parts_of(ANY), parts_of(ANY))
def test_merge_is_associative_and_commutative_and_the_same_as_one_pass(a, b, c):
    x, y, z = observe(a), observe(b), observe(c)
    assert x.merge(y) == y.merge(x)
    assert x.merge(y).merge(z) == x.merge(y.merge(z)) == observe(a + b + c)
    assert x.merge(Statistics(histogram=Histogram())) == x


@given(arrays(np.float32, st.integers(1, 40), elements=ANY), st.integers(1, 40))
def test_batches_do_not_matter_to_the_histogram(values, size):
    whole, cut = observe([values]), observe([values[i : i + size] for i in range(0, values.size, size)])
    assert whole.histogram == cut.histogram
    assert whole.range == cut.range


@given(arrays(np.float32, st.integers(1, 30), elements=WIDE))
def test_counts_are_those_of_exact_arithmetic(values):
    found = observe([values])
    assert found.histogram is not None
    assert (found.histogram.counts == brute(values, found.histogram.exponent)).all()
    one_by_one = observe([values[i : i + 1] for i in range(values.size)])
    assert one_by_one.histogram == found.histogram
    bound = float(np.abs(values).max())
    assert bound < SIDE * 2.0**found.histogram.exponent
    assert found.histogram.exponent == -126 or bound >= SIDE / 2 * 2.0**found.histogram.exponent


@given(parts_of(WIDE))
def test_the_mean_range_is_exact(parts):
    found, full = observe(parts), [p for p in parts if p.size]
    if not full:
        assert found.mean_range() == (0.0, 0.0)
        return
    sums = [math.fsum(float(f(p)) for p in full) for f in (np.min, np.max)]
    np.testing.assert_allclose(found.mean_range(), np.array(sums) / len(full), rtol=1e-15, atol=1e-320)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int64])
def test_other_number_types_are_counted_like_float32(dtype):
    values = np.array([0, 1, 2, 3, 100, 100, 127], dtype)
    assert observe([values]) == observe([values.astype(np.float32)])
    assert observe([values[::2], values[1::2]]).histogram == observe([values.astype(np.float32)]).histogram


def test_more_values_than_fit_a_chunk_are_all_counted():
    values = np.random.default_rng(0).standard_normal((300, 500)).astype(np.float32)
    found = observe([values])
    assert found.histogram is not None
    assert found.histogram.counts.sum() == values.size
    assert (found.histogram.counts == brute(values.ravel()[::1], found.histogram.exponent)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_left_out_and_remembered(bad):
    found = observe([np.array([1, bad, -3], np.float32), np.array([bad], np.float32)])
    assert found.range == MinMax(-3.0, 1.0, finite=False)
    assert found.samples == 1
    assert found.histogram is not None
    assert found.histogram.counts.sum() == 2


@pytest.mark.parametrize("shape", [(4, 3, 160, 160), (4, 70000)])
def test_of_long_rows_evenly_spaced_values_are_counted_whatever_the_batch(rng, shape):
    values = rng.standard_normal(shape).astype(np.float32)
    values[2].flat[1] = 50.0  # an outlier between two that are counted
    whole, cut = observe([values]), observe([values[i : i + 1] for i in range(4)])
    assert whole.histogram == cut.histogram
    assert whole.range == cut.range == MinMax(float(values.min()), 50.0)
    assert whole.histogram is not None
    counted = whole.histogram.counts.sum()
    assert 2 * ROW <= counted < 8 * ROW
    below = whole.histogram.counts[:SIDE].sum() / counted
    assert below == pytest.approx((values < 0).mean(), abs=0.01)


def test_a_row_that_is_not_finite_between_the_counted_values_is_known(rng):
    values = rng.standard_normal((1, 200000)).astype(np.float32)
    values[0, 1] = np.inf
    assert not observe([values]).range.finite
