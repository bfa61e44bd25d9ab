"""What ``--input`` may say about a source that knows its inputs itself."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.core.query import TensorSpec
from onnxopt.errors import UsageError
from onnxopt.frameworks.drawing import BATCH
from onnxopt.frameworks.specs import describe, narrowed

KNOWN = (
    TensorSpec("rows", np.dtype(np.float32), (BATCH, "rows_1", 8)),
    TensorSpec("ids", np.dtype(np.int32), (BATCH, 4)),
)


def test_free_axes_take_the_size_that_is_given_and_the_batch_keeps_its_name() -> None:
    given, _ = describe(["rows:float32[N,16,8]"])
    assert [spec.shape for spec in narrowed(KNOWN, given, "m.keras")] == [(BATCH, 16, 8), (BATCH, 4)]
    given, _ = describe(["ids:int32[1,4]"])
    assert [spec.shape for spec in narrowed(KNOWN, given, "m.keras")] == [(BATCH, "rows_1", 8), (1, 4)]
    assert narrowed(KNOWN, (), "m.keras") == KNOWN


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row:float32[N,16,8]", "no input 'row'"),
        ("rows:float16[N,16,8]", "takes rows: float32"),
        ("rows:float32[N,16,9]", "takes rows: float32"),
        ("rows:float32[N,16]", "takes rows: float32"),
    ],
)
def test_what_contradicts_the_source_is_refused(text: str, said: str) -> None:
    given, _ = describe([text])
    with pytest.raises(UsageError, match="input") as refused:
        narrowed(KNOWN, given, "m.keras")
    assert said in refused.value.what
