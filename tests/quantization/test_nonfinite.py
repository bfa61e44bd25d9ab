"""Constants that are no numbers are named, masks left alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.quantization.nonfinite import nonfinite_constants

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[N, 4] x) => (float[N, 4] y) {
  h = MatMul(x, w)
  masked = Add(h, mask)
  y = Softmax(masked)
}
"""


@pytest.mark.parametrize(
    ("where", "value", "named"), [("w", np.nan, "w"), ("w", np.inf, "w"), ("mask", np.nan, "mask")]
)
def test_constants_that_are_no_numbers_are_named(lab, where: str, value: float, named: str) -> None:
    arrays = {"w": np.ones((4, 4), np.float32), "mask": np.zeros(4, np.float32)}
    arrays[where].flat[1] = value
    (note,) = nonfinite_constants(lab.build(TEXT, **arrays))
    assert note.node == f"constant {where!r}"
    assert note.reason.startswith("1 of ")


def test_an_infinite_mask_is_meant_so(lab) -> None:
    mask = np.array([0, -np.inf, 0, 0], np.float32)
    assert nonfinite_constants(lab.build(TEXT, w=np.ones((4, 4), np.float32), mask=mask)) == ()
