"""When a cascade stops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxopt.merging.calls import Calls
from onnxopt.merging.exits import Exits, choose_exits
from onnxopt.merging.forms import Form, Task
from onnxopt.merging.strategies import Cascade

TASK = Task("classes", 1)


def answers(count: int, members: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    common = 2 * rng.standard_normal((count, 5))
    scores = [common + rng.standard_normal((count, 5)) for _ in range(members)]
    return tuple(np.exp(s) / np.exp(s).sum(axis=1, keepdims=True) for s in scores)


def test_the_lead_that_ends_it_falls_as_the_error_of_the_mean_does() -> None:
    exits = Exits((0, 1, 2, 3), (Form(),) * 4, 0.6, (0.25,) * 4, is_sides=False)
    assert exits.limits == pytest.approx([0.6 * math.sqrt(1 / s - 1 / 4) for s in (1, 2, 3)])
    sides = Exits((0, 1), (Form(),) * 2, 0.6, (0.5,) * 2, is_sides=True)
    assert sides.limits == pytest.approx([0.5 + 0.3 * math.sqrt(1 / 2)])


def test_an_item_stops_at_the_first_member_after_which_it_leads_enough() -> None:
    first = np.asarray([[0.9, 0.1], [0.6, 0.4], [0.45, 0.55]])
    second = np.asarray([[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]])
    third = np.asarray([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1]])
    exits = Exits((0, 1, 2), (Form(),) * 3, 0.9, (0.2, 0.3, 0.5), is_sides=False)  # limits 0.73, 0.37
    found, used = exits.run((first, second, third))
    assert used.tolist() == [1, 2, 3]
    assert np.allclose(found, [first[0], (first + second)[1] / 2, (first + second + third)[2] / 3])
    assert exits.cost(used) == pytest.approx((0.2 + 0.5 + 1.0) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_keeps_its_bound_and_saves(seed: int) -> None:
    parts = answers(2000, 5, seed)
    calls = Calls((parts,), (np.mean(parts, axis=0).argmax(axis=1),))
    exits, figures = choose_exits(Cascade(max_drop=0.01), TASK, (Form(),) * 5, (0.2,) * 5, calls)
    assert figures["drop_bound"] <= 0.01
    assert figures["cost"] < 0.6
    found = exits.compute(parts)
    assert (found.argmax(axis=1) != np.mean(parts, axis=0).argmax(axis=1)).mean() < 0.05
    cheap, figures = choose_exits(Cascade(max_cost=0.3), TASK, (Form(),) * 5, (0.2,) * 5, calls)
    assert cheap.cost(cheap.run(parts)[1]) == pytest.approx(figures["cost"])
    assert figures["cost"] <= 0.3


def test_no_drop_at_all_runs_all_members() -> None:
    parts = answers(50, 3, 7)
    exits, figures = choose_exits(Cascade(max_drop=-1.0), TASK, (Form(),) * 3, (0.3, 0.3, 0.4), Calls((parts,), None))
    assert figures["cost"] == pytest.approx(1.0)
    assert min(exits.limits) > 1
