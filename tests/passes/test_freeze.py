from __future__ import annotations

from onnxopt.passes.cleanup.freeze import FreezeDefaults
from onnxopt.passes.fusion.batch_norm import FoldBatchNorm
from tests.passes.test_batch_norm import build, rand


def old_file():
    model = build("a = Conv(x, w) y = BatchNormalization(a, s, b, m, v)", opset=8, w=rand(4, 3, 3, 3))
    model.graph.inputs.extend(model.graph.initializers.values())
    return model


def test_weights_of_an_old_file_become_constants():
    model = old_file()
    assert FoldBatchNorm().run(model, None).changes == 0
    assert FreezeDefaults().run(model, None).changes == 5
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert FoldBatchNorm().run(model, None).changes == 1


def test_nothing_to_freeze(check):
    model = build("y = Conv(x, w)", w=rand(4, 3, 3, 3))
    assert check(model, FreezeDefaults(), {"x": rand(1, 3, 5, 5)}).changes == 0
