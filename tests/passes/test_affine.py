from __future__ import annotations

import numpy as np
import pytest

from onnxopt.passes.fusion.affine import FoldAffine
from tests.passes.conftest import ops
from tests.passes.test_batch_norm import build, rand

X = {"x": rand(1, 3, 5, 5)}


@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize(
    "node", ["Mul(a, k)", "Mul(k, a)", "Add(a, k)", "Add(k, a)", "Sub(a, k)", "Sub(k, a)", "Div(a, k)"]
)
def test_folded(check, node, shape):
    model = build(f"a = Conv(x, w, c) y = {node}", w=rand(4, 3, 3, 3), c=rand(4, seed=2), k=np.abs(rand(*shape)) + 0.5)
    result = check(model, FoldAffine(), X)
    assert ops(result.model.graph) == ["Conv"]
    assert result.changes == 1


def test_a_chain_behind_a_grouped_transposed_convolution(check):
    model = build(
        "a = ConvTranspose <group = 2> (x, w) d = Mul(a, k) y = Add(d, b4)",
        shape="1,6,5,5",
        w=rand(6, 2, 3, 3),
        k=rand(4, 1, 1),
        b4=rand(1, 4, 1, 1, seed=3),
    )
    result = check(model, FoldAffine(), {"x": rand(1, 6, 5, 5)})
    assert ops(result.model.graph) == ["ConvTranspose"]
    assert result.changes == 2


@pytest.mark.parametrize(
    ("node", "shape", "reason"),
    [
        ("Div(k, a)", (4, 1, 1), "divides the constant by the convolution"),
        ("Add(a, k)", (3, 3), "not one value a channel"),
        ("Add(a, k)", (3,), "not one value a channel"),
        ("Add(a, k)", (2, 1, 1, 1), "not one value a channel"),
        ("Add(a, k)", (1, 1, 4, 1, 1), "not one value a channel"),
    ],
)
def test_declined(check, node, shape, reason):
    result = check(build(f"a = Conv(x, w) y = {node}", w=rand(4, 3, 3, 3), k=rand(*shape)), FoldAffine(), X)
    assert result.changes == 0
    assert reason in result.notes[0].reason


def test_one_channel_that_the_constant_widens(check):
    model = build("a = Conv(x, w) y = Add(a, k)", w=rand(1, 3, 3, 3), k=rand(4, 1, 1))
    assert check(model, FoldAffine(), X).changes == 0


def test_division_by_zero():
    model = build("a = Conv(x, w) y = Div(a, k)", w=rand(4, 3, 3, 3), k=np.zeros(()))
    assert "divides by zero" in FoldAffine().run(model, None).notes[0].reason


def test_two_convolutions_are_no_candidate(check):
    model = build("a = Conv(x, w) d = Conv(x, u) y = Add(a, d)", w=rand(4, 3, 3, 3), u=rand(4, 3, 3, 3, seed=4))
    result = check(model, FoldAffine(), X)
    assert (result.changes, result.notes) == (0, ())
