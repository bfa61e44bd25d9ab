"""Groups whose cut is not exact are found and left whole."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from onnxopt.errors import VerificationError
from onnxopt.passes.base import Context
from onnxopt.pruning.pruner import Pruner, open_pruner
from onnxopt.pruning.soundness import sound
from onnxopt.run.tap import observed_shapes
from tests.pruning.conftest import TARGET, Bench

TEXT = """
net (float[N, 8] x) => (float[N, 5] y) {
  a = MatMul(x, wa)
  b = Relu(a)
  c = MatMul(b, wb)
  d = Relu(c)
  y = MatMul(d, wy)
}
"""
FEEDS = [{"x": np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)}]


@pytest.fixture
def pruner(bench: Bench) -> Pruner:
    model = bench.weights(bench.build(TEXT), wa=(8, 16), wb=(16, 12), wy=(12, 5))
    shapes = observed_shapes(model, FEEDS[0], TARGET, bench.folder)
    ctx = Context(bench.folder, target=TARGET)
    return open_pruner(model, bench.folder / "m.onnx", shapes, ctx, method="l2", block=4)


def test_what_is_exact_is_left_as_it_is(pruner: Pruner) -> None:
    checked, notes = sound(pruner, FEEDS)
    assert checked is pruner
    assert notes == ()


class Narrow(Pruner):
    """A pruner whose first group cannot be cut."""

    def check(self, kept: np.ndarray, feeds: object) -> None:
        if int(kept[0]) < 16:
            raise VerificationError("the changed model does not load", where="m.onnx", fix="none")
        super().check(kept, feeds)


def test_a_group_that_fails_alone_is_left_whole(pruner: Pruner) -> None:
    checked, notes = sound(Narrow(**{f.name: getattr(pruner, f.name) for f in fields(pruner)}), FEEDS)
    assert [len(c) for c in checked.choices.choices] == [1, len(pruner.choices.choices[1])]
    assert [note.reason for note in notes] == ["cutting it is not exact: the changed model does not load"]
