from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.evaluate.rows import RowBuffer, paired_rows, regroup

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12)


@given(SIZES, st.integers(6, 60))
def test_a_small_buffer_keeps_the_sums_of_neighbours(sizes: list[int], limit: int) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (sum(sizes), 3)).astype(float)
    small, large = RowBuffer(limit), RowBuffer()
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        small.add(part)
        large.add(part)
    assert small.items == len(rows)
    assert np.array_equal(large.rows(), rows) or not len(rows)
    assert small.rows().size <= limit
    if len(rows):
        assert np.array_equal(small.rows(), regroup(rows, small.group))
        first, second = paired_rows(small, large)
        assert np.array_equal(first, second)


def test_rows_may_get_wider() -> None:
    buffer = RowBuffer()
    buffer.add(np.ones((2, 3)))
    buffer.add(np.ones((1, 6)))
    buffer.add(np.ones((1, 3)))
    assert buffer.rows().sum(axis=0).tolist() == [4, 4, 4, 1, 1, 1]
    narrow = RowBuffer()
    narrow.add(np.ones((4, 3)))
    first, second = paired_rows(buffer, narrow)
    assert first.shape == second.shape == (4, 6)
