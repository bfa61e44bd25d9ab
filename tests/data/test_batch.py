from __future__ import annotations

import numpy as np
import pytest

from onnxopt.core.query import TensorSpec
from onnxopt.data.batch import MOST_BYTES, batch_axes, batch_size, batches, bounded
from onnxopt.errors import DataError

FLOAT = np.dtype(np.float32)
X = TensorSpec("x", FLOAT, ("batch", 3))


def spec(name: str, *shape: int | str | None) -> TensorSpec:
    return TensorSpec(name, FLOAT, shape)


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[v] * 3 for v in values], np.float32)}


def firsts(call: dict[str, np.ndarray]) -> list[float]:
    return call["x"][:, 0].tolist()


@pytest.mark.parametrize(
    ("specs", "axes"),
    [
        ([spec("x", "N", 3)], {"x": 0}),
        ([spec("x", "N", 3), spec("h", 2, "N", 128)], {"x": 0, "h": 1}),
        ([spec("x", "time", "batch", 40)], {"x": 1}),
        ([spec("x", "N", 3), spec("sizes", 2)], {"x": 0}),
        ([spec("x", None, 3), spec("y", None)], {"x": 0, "y": 0}),
        ([spec("x", "unk__1", 3), spec("y", "unk__2")], {"x": 0, "y": 0}),
        ([spec("x", "N", 3), spec("other", "M", 3)], {"x": 0}),
        ([spec("rate"), spec("x", "N")], {"x": 0}),
        ([TensorSpec("x", FLOAT, None)], {"x": 0}),
        ([spec("x", 1, 3)], {}),
        ([], {}),
    ],
)
def test_the_batch_is_where_its_symbol_is(specs: list[TensorSpec], axes: dict[str, int]) -> None:
    assert batch_axes(specs) == axes


def test_samples_are_joined_in_order() -> None:
    calls = batches([rows(i) for i in range(7)], [X], 3, most=16)
    assert [firsts(call) for call in calls] == [[0, 1, 2], [3, 4, 5]]
    assert len(batches([rows(i) for i in range(7)], [X], 1, most=4)) == 4


def test_too_few_samples_are_repeated_and_too_large_ones_cut() -> None:
    assert [firsts(c) for c in batches([rows(1), rows(2)], [X], 5, most=16)] == [[1, 2, 1, 2, 1]]
    assert [firsts(c) for c in batches([rows(1, 2, 3), rows(4)], [X], 2, most=16)] == [[1, 2], [3, 4]]


def test_shapes_are_kept_apart_and_taken_in_turn() -> None:
    samples = [{"x": np.zeros((1, n), np.float32)} for n in (5, 7, 5, 7, 5, 7, 5)]
    calls = batches(samples, [spec("x", "N", "T")], 2, most=3)
    assert [call["x"].shape for call in calls] == [(2, 5), (2, 7), (2, 5)]


def test_a_state_grows_on_its_own_axis_and_the_rest_is_shared() -> None:
    sample = {
        "x": np.ones((1, 4), np.float32),
        "h": np.arange(6, dtype=np.float32).reshape(2, 1, 3),
        "sr": np.float32(7) * np.ones(()),
    }
    specs = [spec("x", "batch", 4), spec("h", 2, "batch", 3), spec("sr")]
    (call,) = batches([sample], specs, 4, most=16)
    assert {name: array.shape for name, array in call.items()} == {"x": (4, 4), "h": (2, 4, 3), "sr": ()}
    assert np.array_equal(call["h"][:, 3], sample["h"][:, 0])
    assert batch_size(call, specs) == 4


def test_a_fixed_batch_is_that_or_an_error() -> None:
    fixed = [spec("x", 2, 3)]
    samples = [rows(1, 2), rows(3, 4)]
    assert batches(samples, fixed, 2, most=16) == samples
    with pytest.raises(DataError, match="batches of 2 only, not of 8") as caught:
        batches(samples, fixed, 8, most=16)
    assert "dynamic batch" in caught.value.fix and "x: float32 (2, 3)" in caught.value.where
    with pytest.raises(DataError):
        batches([{"a": np.ones((), np.float32)}], [spec("a")], 1, most=16)


def test_no_more_samples_are_held_than_fit() -> None:
    large = {"x": np.zeros(MOST_BYTES // 8, np.float32)}
    assert len(bounded((large for _ in range(10)), 10)) == 2
    assert len(bounded((rows(i) for i in range(10)), 3)) == 3
