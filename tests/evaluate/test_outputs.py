from __future__ import annotations

import numpy as np
import pytest

from onnxopt.errors import DataError
from onnxopt.evaluate.outputs import as_array, leaves


def test_class_probabilities_as_a_list_of_maps_become_a_table() -> None:
    table = as_array([{1: 0.75, 0: 0.25}, {0: 0.5, 1: 0.5}], "probabilities")
    assert table.tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_a_sequence_becomes_one_row() -> None:
    assert as_array([np.ones((2, 2)), np.zeros(3)], "y").shape == (1, 7)


def test_what_no_metric_can_judge() -> None:
    for value in ([], None, [np.ones(1), np.array(["a"])]):
        with pytest.raises(DataError, match="output 'y'"):
            as_array(value, "y")


def test_maps_are_compared_in_the_order_of_their_keys() -> None:
    first, second = leaves({"b": 2.0, "a": 1.0}), leaves({"a": 1.0, "b": 2.0})
    assert all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))
