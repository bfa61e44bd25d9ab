"""Embedding tables in INT8."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.quantization.fixes.tables import QuantizeTables

HEAD = '<ir_version: 8, opset_import: ["" : 13]> g '
LOOKUP = HEAD + "(int64[N,5] i) => (float[N,5,32] y) { e = Gather(t, i) y = Relu(e) }"
TWICE = HEAD + "(int64[N,5] i) => (float[N,5,32] y) { e = Gather(t, i) f = Gather(t, i) y = Add(e, f) }"
TIED = (
    HEAD + "(int64[N,5] i) => (float[N,5,4096] y) { e = Gather(t, i) u = Transpose <perm=[1,0]> (t) y = MatMul(e, u) }"
)
SHOWN = HEAD + "(int64[N,5] i) => (float[N,5,32] y) { y = Gather(t, i) }"
COLUMNS = HEAD + "(int64[N] i) => (float[4096,N] y) { y = Gather <axis=1> (t, i) }"


def table(rng, rows=4096, columns=32):
    return rng.standard_normal((rows, columns)).astype(np.float32) * np.geomspace(0.01, 10, rows)[:, None].astype("f")


def ids(rng, count=4):
    return [{"i": rng.integers(0, 4096, (3, 5))} for _ in range(count)]


@pytest.mark.parametrize("text", [LOOKUP, TWICE, SHOWN])
def test_rows_keep_their_own_scales(lab, rng, text):
    data = ids(rng)
    result = lab.run(QuantizeTables(), lab.build(text, t=table(rng)), data)
    assert result.changes == (2 if text is TWICE else 1)
    assert lab.sqnr_db(data) > 40
    assert lab.result.stat().st_size < 0.3 * lab.source.stat().st_size
    assert QuantizeTables().run(result.model, lab.context(data)).changes == 0


def test_a_row_of_zeros_stays_zero(lab, rng):
    values = table(rng)
    values[7] = 0
    lab.run(QuantizeTables(), lab.build(LOOKUP, t=values), ids(rng))
    assert not lab.outputs(lab.result, {"i": np.full((1, 5), 7)})[0].any()


@pytest.mark.parametrize(
    ("text", "values", "reason"),
    [
        (TIED, None, "also used in float"),
        (COLUMNS, None, "rows of a matrix"),
        (LOOKUP, np.full((4096, 32), np.nan, np.float32), "NaN"),
        (LOOKUP.replace("32", "8"), np.ones((16384, 8), np.float32), "too short"),
    ],
)
def test_declined(lab, rng, text, values, reason):
    result = QuantizeTables().run(lab.build(text, t=table(rng) if values is None else values), lab.context(ids(rng)))
    assert result.changes == 0
    assert reason in result.notes[0].reason


def test_small_tables_are_not_looked_at(lab, rng):
    result = QuantizeTables().run(lab.build(LOOKUP, t=table(rng, 100)), lab.context(ids(rng)))
    assert (result.changes, result.notes) == (0, ())
