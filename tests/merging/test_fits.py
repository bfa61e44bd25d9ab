"""Weights, forms and adapters by themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.core.query import TensorSpec
from onnxopt.errors import UsageError
from onnxopt.merging.adapt import Adapter, read_adapter
from onnxopt.merging.points import Points
from onnxopt.merging.strategies import Weighted
from onnxopt.merging.weights import fit_weights, shrunk_weights

IMAGE = TensorSpec("x", np.dtype(np.float32), ("N", 4, 4, 3))


def points(count: int, members: int, seed: int) -> Points:
    rng = np.random.default_rng(seed)
    truth = np.eye(3)[rng.integers(0, 3, count)]
    noise = rng.uniform(0.2, 2, members)[None, :, None] * rng.standard_normal((count, members, 3))
    return Points(truth[:, None] + noise, truth, np.arange(count))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 6), st.floats(0, 30))
def test_shrunk_weights_are_shares_no_worse_than_the_mean_by_their_own_measure(
    seed: int, members: int, rho: float
) -> None:
    given_points = points(60, members, seed)
    weights = shrunk_weights(given_points, rho, is_share=False)
    assert (weights >= 0).all()

    def objective(w: np.ndarray) -> float:
        gap = np.einsum("nkc,k->nc", given_points.outputs, w) - given_points.truth
        trace = float((given_points.outputs**2).sum()) / members
        return float((gap**2).sum()) + rho * trace * float(((w - 1 / members) ** 2).sum())

    assert objective(weights) <= objective(np.full(members, 1 / members)) * (1 + 1e-6) + 1e-6


def test_much_shrinkage_is_the_mean_and_much_data_need_none() -> None:
    assert np.allclose(shrunk_weights(points(50, 4, 0), 1e6), 0.25, atol=1e-3)
    good_and_bad = points(2000, 2, 3)
    weights, _ = fit_weights(good_and_bad, 0)
    errors = ((good_and_bad.outputs - good_and_bad.truth[:, None]) ** 2).sum(axis=(0, 2))
    assert weights[int(errors.argmin())] > weights[int(errors.argmax())]


def test_an_adapter_does_what_it_says() -> None:
    x = np.random.default_rng(0).uniform(0, 255, (2, 3, 8, 8)).astype(np.float32)
    adapter = read_adapter("scale=0.5,mean=1;2;3,std=2,layout=NHWC,colour=BGR,size=4x4", "here")
    found = adapter.compute(x, IMAGE)
    halves = x.reshape(2, 3, 4, 2, 4, 2).mean(axis=(3, 5))[:, ::-1]  # linear at half size is the mean of four
    wanted = ((halves * 0.5 - np.asarray([1, 2, 3]).reshape(1, 3, 1, 1)) / 2).transpose(0, 2, 3, 1)
    assert found.shape == (2, 4, 4, 3)
    assert np.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("text", ["", "scale=0", "std=0", "layout=NCWH", "zoom=2", "scale=a", "size=1x2x3", "mean=nan"])
def test_a_bad_adapter_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_adapter(text, "here")


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_weights_that_cannot_be_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        Weighted(weights)


def test_an_adapter_without_options_changes_nothing() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (1, 4, 4, 3)).astype(np.float32)
    assert np.array_equal(Adapter().compute(x, IMAGE), x)
