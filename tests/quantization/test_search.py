"""Which candidate wins, what a budget allows, which runtime settings are tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onnxopt.evaluate.drift import OutputDrift
from onnxopt.evaluate.tally import Comparison
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.forms import is_quantizer, planned, with_float
from onnxopt.quantization.mixed import MixedQuantize
from onnxopt.quantization.search.budget import Budget
from onnxopt.quantization.search.candidates import Candidate, best
from onnxopt.quantization.static import StaticQuantize

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[1,4,8,8] x) => (float[1,16] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu(c) f = Flatten(r) y = MatMul(f, v) }"""


def candidate(name: str, ratio: float, db: float, drop: float = 0.0, outcome: Any = "faster") -> Candidate:
    comparison = Comparison("m", True, False, "y", 10, 1.0, 1.0 - drop, drop, None, None, (_drift(db),))
    latency: Any = SimpleNamespace(ratio=ratio)
    return Candidate(name, StaticQuantize(), None, Path(name), 1, outcome, "", comparison, latency)


def _drift(db: float) -> OutputDrift:
    values = dict.fromkeys(OutputDrift.__dataclass_fields__, 0.0)
    return OutputDrift(**{**values, "name": "y", "sqnr_db": db})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidates", "wins"),
    [
        ([candidate("a", 0.5, 20), candidate("b", 0.6, 20)], "a"),
        ([candidate("a", 0.5, 20, outcome="inaccurate"), candidate("b", 0.6, 20)], "b"),
        ([candidate("a", 0.5, 20, 0.005), candidate("b", 0.505, 20, 0.001)], "b"),
        ([candidate("a", 0.5, 20), candidate("b", 0.54, 25)], "b"),
        ([candidate("a", 0.5, 20), candidate("b", 0.54, 22)], "a"),
        ([candidate("a", 0.5, 20), candidate("b", 0.56, 40)], "a"),
        ([candidate("a", 0.5, 20), candidate("b", 0.54, 25, 0.004)], "a"),
        ([candidate("a", 0.89, 20), candidate("b", 0.97, 40)], "a"),
    ],
)
def test_the_fastest_wins_unless_one_nearly_as_fast_is_much_closer_to_float(
    candidates: list[Candidate], wins: str
) -> None:
    found = best(candidates)
    assert found is not None and found.name == wins


def test_nothing_wins_when_nothing_is_faster() -> None:
    assert best([candidate("a", 1.0, 20, outcome="not faster")]) is None


def test_a_budget_ends_with_its_evaluations_or_its_time() -> None:
    budget = Budget(max_evals=2)
    assert budget.spent() is None
    budget.spend()
    budget.spend()
    assert "--max-evals" in (budget.spent() or "")
    assert "--time-limit" in (Budget(time_limit=1e-9).spent() or "")
    assert Budget(time_limit=1000).spent() is None


@pytest.mark.parametrize("item", [StaticQuantize(), DynamicQuantize(), MixedQuantize()])
def test_layers_can_be_left_in_float_in_every_form(lab, rng, item: Any) -> None:
    named = {"w": rng.standard_normal((8, 4, 3, 3)).astype("float32"), "v": rng.standard_normal((512, 16), "float32")}
    model = lab.build(TEXT, **named)
    feeds = [{"x": rng.standard_normal((1, 4, 8, 8), "float32")} for _ in range(3)]
    labels = planned(item, model)
    assert is_quantizer(item) and labels
    assert item.run(model.clone(), lab.context(feeds)).changes == len(labels)
    fewer = with_float(item, labels[-1:])
    assert planned(fewer, model) == labels[:-1]
    assert fewer.run(model.clone(), lab.context(feeds)).changes == len(labels) - 1
    assert planned(with_float(item, labels), model) == ()
    assert not is_quantizer(replace)
