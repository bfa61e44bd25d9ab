from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from onnxopt.core.io import load, save
from onnxopt.errors import VerificationError
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.cleanup.noops import RemoveNoOps
from onnxopt.passes.cleanup.unused import RemoveUnused
from onnxopt.passes.pipeline import ROUNDS, run
from onnxopt.passes.registry import OPTIMIZE, create
from tests.passes.conftest import model_of, ops
from tests.passes.test_batch_norm import build, rand


@dataclass(frozen=True)
class Negate:
    """Makes every Relu a Neg: wrong, and it says so only to the tests."""

    name: ClassVar[str] = "negate"
    lossy: ClassVar[bool] = False

    def run(self, model, ctx):
        for node in model.graph:
            if node.op_type == "Relu":
                node.op_type = "Neg"
                return PassResult(model, 1)
        return PassResult(model, 0)


@dataclass(frozen=True)
class Dangle(Negate):
    """Takes a producer away: the file does not load."""

    name: ClassVar[str] = "dangle"

    def run(self, model, ctx):
        model.graph.remove(model.graph.node(0))
        return PassResult(model, 1)


MODEL = """<ir_version: 8, opset_import: ["": 17]> g (float[n,2] x) => (float[n,2] y) {
    a = Identity(x) b = Dropout(a) dead = Exp(x) y = Relu(b) }"""


@pytest.fixture
def saved(tmp_path: Path):
    def make(model):
        path = tmp_path / "reference.onnx"
        save(model, path)
        return load(path), path, Context(workdir=tmp_path)

    return make


def test_counts_of_each_pass_and_the_input_untouched(saved):
    model, path, ctx = saved(model_of(MODEL))
    result, records = run(model, [RemoveNoOps(), RemoveUnused()], ctx, reference=path)
    assert ops(result.graph) == ["Relu"]
    assert [(r.name, r.changes) for r in records] == [("remove-no-ops", 2), ("remove-unused", 1)]
    assert ops(model.graph) == ["Identity", "Dropout", "Exp", "Relu"]


def test_the_whole_list_on_a_small_network(saved, tmp_path):
    body = "a = Conv(x, w) d = BatchNormalization(a, s, b, m, v) e = Mul(d, k) y = Relu(e)"
    model, path, ctx = saved(build(body, w=rand(4, 3, 3, 3), k=rand()))
    result, records = run(model, [create(name) for name in OPTIMIZE], ctx, reference=path, rounds=ROUNDS)
    assert ops(result.graph) == ["Conv", "Relu"]
    assert len(result.graph.initializers) == 2
    assert {r.name: r.changes for r in records if r.changes}["fold-affine"] == 1
    _, records = run(result, [create(name) for name in OPTIMIZE], ctx, reference=tmp_path / "candidate.onnx")
    assert not any(r.changes for r in records)


def test_nothing_to_do_writes_nothing(saved, tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    model, path, ctx = saved(model_of(text))
    _, records = run(model, [create(name) for name in OPTIMIZE], ctx, reference=path)
    assert not any(r.changes for r in records)
    assert not (tmp_path / "candidate.onnx").exists()


@pytest.mark.parametrize("culprit", [Negate(), Dangle()])
def test_the_pass_that_breaks_the_model_is_named(saved, culprit):
    model, path, ctx = saved(model_of(MODEL))
    with pytest.raises(VerificationError, match=culprit.name) as caught:
        run(model, [RemoveUnused(), culprit, RemoveNoOps()], ctx, reference=path)
    assert isinstance(caught.value.__cause__, VerificationError)


def test_float16(saved):
    body = "a = Conv(x, w) y = BatchNormalization(a, s, b, m, v)"
    model, path, ctx = saved(build(body, np.float16, w=rand(4, 3, 3, 3) / 5))
    result, _ = run(model, [create("fold-batch-norm")], ctx, reference=path)
    assert ops(result.graph) == ["Conv"]
