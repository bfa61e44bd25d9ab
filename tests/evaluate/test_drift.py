from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxopt.errors import DataError
from onnxopt.evaluate.drift import DriftMeter, OutputDrift


def drift(*calls: tuple[object, object]) -> OutputDrift:
    meter = DriftMeter()
    for reference, candidate in calls:
        meter.update({"y": reference}, {"y": candidate})
    (result,) = meter.result()
    return result


NUMBERS = hnp.arrays(np.float32, 12, elements=st.floats(-100, 100, width=32, allow_subnormal=False))


@given(NUMBERS, NUMBERS)
def test_distances_are_those_of_all_calls_together(a: np.ndarray, b: np.ndarray) -> None:
    found = drift((a[:5], b[:5]), (a[5:], b[5:]))
    x, y = a.astype(float), b.astype(float)
    noise, signal = np.sum((x - y) ** 2), np.sum(x**2)
    if noise and signal:
        assert found.sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    if signal and np.any(y):
        assert found.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-9)
    assert found.max_abs == pytest.approx(np.abs(x - y).max())
    assert found.share_equal == np.mean(x == y)
    assert found.elements == 12


def test_equal_outputs() -> None:
    values = np.array([1.0, np.nan, np.inf])
    found = drift((values, values.copy()))
    assert found == OutputDrift("y", 3, math.inf, 1.0, 0.0, 0.0, 1.0, 0, 0)


def test_zero_reference() -> None:
    found = drift((np.zeros(2), np.ones(2)))
    assert (found.sqnr_db, found.cosine, found.max_rel) == (-math.inf, 0.0, math.inf)


def test_a_value_that_is_broken_in_the_candidate_only_is_flagged() -> None:
    found = drift((np.array([1.0, 2.0, np.nan]), np.array([1.0, np.nan, np.nan])))
    assert (found.nonfinite, found.sqnr_db, found.max_abs) == (1, -math.inf, math.inf)
    assert found.share_equal == pytest.approx(2 / 3)


def test_integers_booleans_and_strings_have_a_share_of_equal_elements() -> None:
    assert drift((np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))).share_equal == 0.75
    assert drift((np.array([True, False]), np.array([True, True]))).share_equal == 0.5
    strings = drift((np.array(["a", "b"], object), np.array(["a", "c"], object)))
    assert (strings.share_equal, strings.sqnr_db, strings.cosine) == (0.5, None, None)


def test_sequences_and_maps_are_compared_element_by_element() -> None:
    found = drift(([np.ones(2), np.zeros(3)], [np.ones(2), np.zeros(3)]), ([np.ones(1)], [np.ones(1), np.ones(1)]))
    assert (found.elements, found.resized, found.max_abs) == (5, 1, 0.0)
    assert drift(([{0: 0.25, 1: 0.75}], [{0: 0.5, 1: 0.5}])).max_abs == 0.25


def test_sizes_that_differ_are_counted() -> None:
    found = drift((np.ones((3, 4)), np.ones((2, 4))))
    assert (found.resized, found.elements, found.share_equal, found.sqnr_db) == (1, 0, 0.0, None)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        ({"y": np.zeros(2, np.float32)}, {"y": np.zeros(2, np.float64)}),
        ({"y": np.zeros((2, 1))}, {"y": np.zeros(2)}),
        ({"y": np.zeros(2)}, {"z": np.zeros(2)}),
        ({"y": np.array(["a"])}, {"y": np.zeros(1)}),
    ],
)
def test_other_kinds_of_outputs_are_refused(reference: Mapping[str, object], candidate: Mapping[str, object]) -> None:
    with pytest.raises(DataError, match="output 'y'"):
        DriftMeter().update(reference, candidate)
