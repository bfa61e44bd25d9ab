"""The widths that groups may have."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.pruning.importance import Ranking
from onnxopt.pruning.plan import aligned, menu
from onnxopt.pruning.structure import Group
from onnxopt.pruning.walk import Slot


def group(units: int) -> Group:
    ids = np.arange(units)
    return Group("g", ids, (Slot(ir.Value(name="w"), 0, ids),), (), ())


@pytest.mark.parametrize(
    ("units", "block", "strict"), [(2048, 4, False), (1000, 4, False), (96, 16, True), (24, 8, True)]
)
def test_widths_are_multiples_of_the_block_however_many_there_are(units: int, block: int, strict: bool) -> None:
    ranking = Ranking(group(units), np.arange(units), np.linspace(0, 1, units + 1))
    found = menu([ranking], [], block, strict=strict)
    widths = found.choices[0]
    assert widths[-1] == units and (np.diff(widths) > 0).all() and 2 <= len(widths) <= 26
    step = widths[1] - widths[0] if len(widths) > 2 else block
    assert step % block == 0 and (widths[:-1] % step == 0).all()
    np.testing.assert_allclose(found.errors[0], 1 - widths / units)


def test_wide_groups_can_fill_blocks() -> None:
    rankings = [Ranking(group(n), np.arange(n), np.linspace(0, 1, n + 1)) for n in (64, 256, 2048)]
    fine = menu(rankings, [], 4, strict=False)
    whole = aligned(fine, [r.group for r in rankings], 16)
    assert [c[0] for c in whole.choices] == [16, 32, 256]
    assert all((c % 8 == 0).all() for c in whole.choices)


def test_some_can_be_left_whole() -> None:
    rankings = [Ranking(group(n), np.arange(n), np.linspace(0, 1, n + 1)) for n in (32, 64)]
    left = menu(rankings, [], 4, strict=False).whole([0])
    assert left.choices[0].tolist() == [32] and left.errors[0].tolist() == [0.0] and len(left.choices[1]) > 2
