from __future__ import annotations

import numpy as np
import pytest

from onnxopt.core.query import label
from onnxopt.quantization.search.restore import Group, rank, restore
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
    found = restore(StaticQuantize(), GROUPS, budget(limit, calls))
    assert (None if found is None else set(found.keep_float)) == kept
    assert len(calls) <= 2 * 4 + 8


def test_what_was_kept_before_stays_so() -> None:
    found = restore(StaticQuantize(keep_float=("z",)), GROUPS, budget(6.0, []))
    assert found == StaticQuantize(keep_float=("z", "b"))


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
