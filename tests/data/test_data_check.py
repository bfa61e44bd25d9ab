"""Arrays that do not fit the model: what the user is told, and which casts are made."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from onnxopt.core.query import TensorSpec
from onnxopt.data.sources import open_dataset
from onnxopt.errors import DataError

F32 = np.dtype(np.float32)
IMAGE = TensorSpec("x", F32, ("N", 3, 8, 8))


def opened(folder: Path, spec: TensorSpec | list[TensorSpec], **arrays: np.ndarray):
    np.savez(folder / "d.npz", **arrays)
    return open_dataset(str(folder / "d.npz"), spec if isinstance(spec, list) else [spec])


def vector(dtype: object) -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), ("N",))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"pixel": np.zeros((2, 3, 8, 8), F32)}, ["no array for input 'x'", "expected 'x'", "found 'pixel'"]),
        ({"x": np.zeros((2, 3, 8, 8), F32), "extra": np.zeros(2)}, ["'extra' is not an input", "--labels"]),
        ({"x": np.zeros((2, 8, 8, 3), F32)}, ["expected (N, 3, 8, 8), found (2, 8, 8, 3)", "transpose(0, 3, 1, 2)"]),
        ({"x": np.zeros((3, 8, 8), F32)}, ["expected (N, 3, 8, 8), found (3, 8, 8)", "array[None]"]),
        ({"x": np.zeros((2, 3, 8, 9), F32)}, ["expected (N, 3, 8, 8), found (2, 3, 8, 9)"]),
        ({"x": np.zeros((2, 5, 3, 8, 9), F32)}, ["expected (samples, N, 3, 8, 8), found (2, 5, 3, 8, 9)"]),
        ({"x": np.zeros((2, 3, 8, 8), np.uint8)}, ["expected float32, found uint8", "normalise"]),
        ({"x": np.zeros((2, 3, 8, 8), np.complex64)}, ["expected float32, found complex64"]),
        ({"x": np.zeros((2, 3, 8, 8), bool)}, ["expected float32, found bool"]),
        ({"x": np.zeros((0, 3, 8, 8), F32)}, ["'x' is empty"]),
        ({"x": np.zeros((), F32)}, ["expected (N, 3, 8, 8), found ()"]),
        ({"x": np.zeros((2, 3, 8, 8), F32), "labels": np.zeros(3)}, ["labels (3,) do not match 2 samples"]),
        ({"x": np.zeros((2, 3, 8, 8), F32), "labels": np.zeros(())}, ["labels () do not match 2 samples"]),
    ],
)
def test_opening_tells_what_does_not_fit(tmp_path: Path, arrays: dict[str, np.ndarray], expected: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, IMAGE, **arrays)
    for part in expected:
        assert part in str(caught.value)
    assert "d.npz" in caught.value.where and caught.value.fix


def test_nchw_data_for_an_nhwc_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"transpose\(0, 2, 3, 1\)"):
        opened(tmp_path, TensorSpec("x", F32, (None, 8, 8, 3)), x=np.zeros((2, 3, 8, 8), F32))


def test_misnamed_array_gets_the_nearest_name(tmp_path: Path) -> None:
    specs = [TensorSpec("input_ids", F32, ("N",)), TensorSpec("mask", F32, ("N",))]
    with pytest.raises(DataError, match="did you mean 'input_id'"):
        opened(tmp_path, specs, input_id=np.zeros(2, F32), mask=np.zeros(2, F32))


def test_no_name_is_suggested_when_none_is_near(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, vector(F32), pixel=np.zeros(2, F32))
    assert caught.value.fix == "name the arrays as the model's inputs"


def test_arrays_of_different_lengths(tmp_path: Path) -> None:
    specs = [TensorSpec("a", F32, ("N",)), TensorSpec("b", F32, ("N",))]
    with pytest.raises(DataError, match="a: 2, b: 3"):
        opened(tmp_path, specs, a=np.zeros(2, F32), b=np.zeros(3, F32))
    specs = [TensorSpec("a", F32, ("N",)), TensorSpec("b", F32, ())]
    with pytest.raises(DataError, match="a: 2, b: 3"):
        opened(tmp_path, specs, a=np.zeros(2, F32), b=np.zeros(3, F32))


def test_models_that_cannot_be_fed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to feed"):
        opened(tmp_path, [], x=np.zeros(2))
    with pytest.raises(DataError, match="'s' is not a tensor"):
        opened(tmp_path, TensorSpec("s", None, None), s=np.zeros(2))


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_values_that_are_not_finite_name_sample_and_input(tmp_path: Path, bad: float, word: str) -> None:
    x = np.zeros((5, 3, 8, 8), F32)
    x[3, 1, 2, 4] = bad
    data = opened(tmp_path, IMAGE, x=x)
    assert data[2].feeds["x"].shape == (1, 3, 8, 8), "the other samples can be read"
    with pytest.raises(DataError, match=rf"{word}[\s\S]*index \(0, 1, 2, 4\)[\s\S]*sample 3, input 'x'"):
        list(data)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (np.array([0.5, -2.0], np.float64), np.float32),
        (np.array([0.5, -2.0], np.float64), np.float16),
        (np.array([0.5, -2.0], np.float32), np.float16),
        (np.array([0.5, -2.0], np.float32), ml_dtypes.bfloat16),
        (np.array([5, -7], np.int64), np.int32),
        (np.array([5, -7], np.int32), np.int64),
        (np.array([5, 250], np.uint8), np.int64),
        (np.array([0, 1], np.int64), np.bool_),
        (np.array([True, False]), np.int64),
        (np.array([0.5, -2.0], ml_dtypes.bfloat16), ml_dtypes.bfloat16),
        (np.array(["yes", "no"]), np.str_),
    ],
)
def test_casts_that_keep_the_values(tmp_path: Path, stored: np.ndarray, wanted: type) -> None:
    sample = opened(tmp_path, vector(wanted), x=stored)[1].feeds["x"]
    assert sample.dtype.kind == "U" or sample.dtype == np.dtype(wanted)
    assert sample[0] == stored[1]


@pytest.mark.parametrize(
    ("stored", "wanted", "message"),
    [
        (np.array([1e6]), np.float16, "too large for float16"),
        (np.array([2**40]), np.int32, "does not fit into int32"),
        (np.array([2**63], np.uint64), np.int64, "does not fit into int64"),
        (np.array([-1]), np.uint8, "does not fit into uint8"),
        (np.array([2]), np.bool_, "does not fit into bool"),
    ],
)
def test_casts_that_would_change_values(tmp_path: Path, stored: np.ndarray, wanted: type, message: str) -> None:
    data = opened(tmp_path, vector(wanted), x=stored)
    with pytest.raises(DataError, match=rf"{message}[\s\S]*sample 0, input 'x'"):
        data[0]


def test_fractions_do_not_feed_integers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected int64, found float32"):
        opened(tmp_path, vector(np.int64), x=np.zeros(2, F32))
    with pytest.raises(DataError, match="expected str, found int64"):
        opened(tmp_path, vector(np.str_), x=np.zeros(2, np.int64))


def test_empty_caches_are_data(tmp_path: Path) -> None:
    spec = TensorSpec("past", F32, ("N", 2, "past", 4))
    assert opened(tmp_path, spec, past=np.zeros((3, 2, 0, 4), F32))[0].feeds["past"].shape == (1, 2, 0, 4)


def test_unknown_rank_takes_rows(tmp_path: Path) -> None:
    assert opened(tmp_path, TensorSpec("x", F32, None), x=np.ones((3, 2), F32))[0].feeds["x"].shape == (1, 2)
