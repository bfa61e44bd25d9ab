from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxopt.core.query import label
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.search.borders import START, Border, Group, Layers, borders
from onnxopt.quantization.search.restore import rank, restore
from onnxopt.quantization.static import StaticQuantize
from tests.quantization.conftest import Lab

GROUPS = [
    Group(("a",), 0.1, 5.0),
    Group(("b",), 9.0, 1.0),
    Group(("c",), 0.2, 4.0),
    Group(("d",), 5.0, 8.0),
    Group(("e", "f"), 0.3, 3.0),
]


def budget(limit: float, calls: list[tuple[str, ...]]) -> object:
    """Within the budget when the errors of the layers that are left on integers add up to at most ``limit``."""

    def is_within(item: StaticQuantize) -> bool:
        calls.append(item.keep_float)
        return sum(g.error for g in GROUPS if not set(g.nodes) <= set(item.keep_float)) <= limit

    return is_within


@pytest.mark.parametrize(
    ("limit", "kept"), [(6.0, {"b"}), (1.0, {"b", "d"}), (0.35, {"b", "d", "e", "f"}), (0.05, None)]
)
def test_as_little_as_possible_goes_back_to_float(limit: float, kept: set[str] | None) -> None:
    calls: list[tuple[str, ...]] = []
    found = restore(StaticQuantize(), Layers(tuple(GROUPS)), budget(limit, calls))
    assert (None if found is None else set(found.keep_float)) == kept
    assert len(calls) <= 4 + 8


def test_what_was_kept_before_stays_so() -> None:
    found = restore(StaticQuantize(keep_float=("z",)), Layers(tuple(GROUPS)), budget(6.0, []))
    assert found == StaticQuantize(keep_float=("z", "b"))


CHAIN = tuple(Group((name,), error, 1.0) for name, error in zip("abcdefgh", (9, 1, 9, 1, 1, 1, 1, 1), strict=True))


def chain(element_ms: float) -> Layers:
    between = [Border(a.nodes[0], b.nodes, 1000) for a, b in itertools.pairwise(CHAIN)]
    return Layers(CHAIN, tuple(between), element_ms / (1000 + START))


@pytest.mark.parametrize(("element_ms", "kept"), [(0.0, {"a", "c"}), (0.6, {"a", "b", "c"})])
def test_a_layer_between_float_ones_follows_them_where_conversions_cost_more_than_it_gains(
    element_ms: float, kept: set[str]
) -> None:
    choices = chain(element_ms).choices()
    assert kept in [{name for g in choice for name in g.nodes} for choice in choices]
    assert all(a < b for a, b in itertools.pairwise(choices))  # the higher the price, the more is in float


def test_layers_of_one_price_are_not_all_or_nothing() -> None:
    same = tuple(Group((name,), 1.0, 1.0) for name in "abcdef")
    choices = Layers(same).choices()
    assert [len(choice) for choice in choices] == [1, 2, 3, 4, 5]
    found = restore(
        StaticQuantize(), Layers(same), lambda item: sum(g.nodes[0] not in item.keep_float for g in same) <= 2
    )
    assert found is not None and len(found.keep_float) == 4


def test_a_conversion_is_paid_once_for_all_readers_and_passes_what_has_no_form_of_its_own() -> None:
    a, b, c = (Group((name,), 1.0, 0.0) for name in "abc")
    between = (Border("a", ("add", "b"), 1000), Border("add", ("c",), 10))
    layers = Layers((a, b, c), between, 1.0)
    assert layers.cost_ms(frozenset({a})) == pytest.approx(1000 + START, rel=1e-3)  # for "b" and "add"
    assert layers.cost_ms(frozenset({c})) == pytest.approx(10 + START, rel=1e-3)  # behind "add"
    assert layers.cost_ms(frozenset({a, b, c})) == layers.cost_ms(frozenset()) == 0
    assert layers.runs(frozenset({a, c})) == [frozenset({a}), frozenset({c})]


def test_borders_are_values_that_carry_codes_between_layers(lab: Lab, rng: np.random.Generator) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) '
        "{ a = Conv (x, u) r = Relu (a) b = Conv (r, v) s = Add (r, b) "
        "c = Conv (s, w) d = Sigmoid (c) y = Conv (d, t) }"
    )
    model = lab.build(text, **{name: rng.standard_normal((8, 8, 1, 1)).astype(np.float32) for name in "uvwt"})
    names = {n.outputs[0].name: label(n) for n in model.graph}
    found = borders(model, StaticQuantize(), {"r": (1, 8, 4, 4), "b": (1, 8, 4, 4), "s": (1, 8, 4, 4)})
    assert set(found) == {
        Border(names["a"], (names["b"], names["s"]), 128),
        Border(names["b"], (names["s"],), 128),
        Border(names["s"], (names["c"],), 128),
    }
    assert borders(model, DynamicQuantize(), {}) == ()


def test_every_layer_is_ranked_by_itself(lab: Lab, rng: np.random.Generator) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 16] x) => (float[N, 16] y) '
        "{ a = MatMul (x, w) b = Relu (a) c = MatMul (b, u) y = Add (c, x) }"
    )
    wide = rng.standard_normal((16, 16)).astype(np.float32)
    wide[0, :] *= 1000.0  # one input channel sets the scale of every output channel
    model = lab.build(text, w=rng.standard_normal((16, 16)).astype(np.float32), u=wide)
    feeds = [{"x": rng.standard_normal((4, 16)).astype(np.float32)} for _ in range(4)]
    groups = rank(model, StaticQuantize(), feeds, {}, lab.context(feeds))
    names = [label(n) for n in model.graph if n.op_type == "MatMul"]
    assert [g.nodes for g in groups] == [(names[0],), (names[1],)]
    assert all(0 < g.error < 1 for g in groups)
