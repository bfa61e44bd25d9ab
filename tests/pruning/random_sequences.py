"""Steps of random graphs on sequences (batch, length, width) and rows (batch, width)."""

from __future__ import annotations

import math

import numpy as np

from tests.pruning.random_graphs import Build
from tests.pruning.random_steps import parts as pieces


def linear(b: Build) -> None:
    value = b.value(b.one_of(3, 3, 2))
    if value is None:
        return
    *lead, c = b.shapes[value]
    d = b.one_of(6, 8, 12)
    if len(lead) == 1 and b.chance(60):
        swap = b.number(0, 1)
        inputs = [value, b.weight(*((d, c) if swap else (c, d)), fan=c)]
        if b.chance(70):
            inputs.append(b.weight(*b.one_of((d,), (1, d), (1,))))
        b.op("Gemm", inputs, (*lead, d), transB=swap, alpha=b.one_of(1.0, 0.5))
        return
    made = b.op("MatMul", [value, b.weight(c, d, fan=c)], (*lead, d))
    if b.chance(70):
        bias = b.weight(d)
        b.op("Add", [made, bias] if b.chance(50) else [bias, made], (*lead, d))


def attention(b: Build) -> None:
    value = b.value(3)
    if value is None:
        return
    n, length, c = b.shapes[value]
    heads, width = b.one_of(2, 3), b.one_of(3, 4)
    d = heads * width
    if b.chance(25):
        packed = b.op("MatMul", [value, b.weight(c, 3 * d, fan=c)], (n, length, 3 * d))
        if b.chance(50):
            parts = pieces(b, packed, 2, [d] * 3)
        else:
            five = b.op("Reshape", [packed, b.ints(0, length, 3, heads, width)], (n, length, 3, heads, width))
            order = b.op("Transpose", [five], (3, n, heads, length, width), perm=[2, 0, 3, 1, 4])
            picked = [b.tensor(np.array(i, np.int64)) for i in range(3)]
            split = [b.op("Gather", [order, i], (n, heads, length, width), axis=0) for i in picked]
            _attend(
                b,
                value,
                split[0],
                b.op("Transpose", [split[1]], (n, heads, width, length), perm=[0, 1, 3, 2]),
                split[2],
            )
            return
    else:
        parts = []
        for _ in range(3):
            made = b.op("MatMul", [value, b.weight(c, d, fan=c)], (n, length, d))
            parts.append(b.same("Add", made, b.weight(d)) if b.chance(60) else made)
    shape = b.one_of((n, length, heads, width), (0, 0, heads, width), (0, -1, heads, width), (n, length, heads, -1))
    split = [b.op("Reshape", [part, b.ints(*shape)], (n, length, heads, width)) for part in parts]
    q, v = (b.op("Transpose", [x], (n, heads, length, width), perm=[0, 2, 1, 3]) for x in (split[0], split[2]))
    k = b.op("Transpose", [split[1]], (n, heads, width, length), perm=[0, 2, 3, 1])
    _attend(b, value, q, k, v)


def _attend(b: Build, value: str, q: str, k: str, v: str) -> None:
    n, heads, length, width = b.shapes[q]
    d = heads * width
    scores = b.op("MatMul", [q, k], (n, heads, length, length))
    scores = b.same("Div", scores, b.tensor(np.array(math.sqrt(width), np.float32)))
    if b.chance(30):
        scores = b.same("Add", scores, b.weight(*b.one_of((length, length), (1, heads, length, length))))
    context = b.op("MatMul", [b.same("Softmax", scores, axis=-1), v], (n, heads, length, width))
    merged = b.op("Transpose", [context], (n, length, heads, width), perm=[0, 2, 1, 3])
    merged = b.op("Reshape", [merged, b.ints(*b.one_of((n, length, d), (0, 0, d), (0, length, -1)))], (n, length, d))
    made = b.op("MatMul", [merged, b.weight(d, b.shapes[value][2], fan=d)], b.shapes[value])
    if b.chance(60):
        b.same("Add", made, value)


def recurrent(b: Build) -> None:
    value = b.value(3, lambda s: s[1] <= 16)
    if value is None:
        return
    n, length, c = b.shapes[value]
    kind, gates = b.one_of(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    hidden = b.one_of(5, 6)
    both = b.chance(30)
    dirs = 2 if both else 1
    turned = b.op("Transpose", [value], (length, n, c), perm=[1, 0, 2])
    inputs = [turned, b.weight(dirs, gates * hidden, c, fan=c), b.weight(dirs, gates * hidden, hidden, fan=hidden)]
    if b.chance(60):
        inputs.append(b.weight(dirs, 2 * gates * hidden))
    more = {"linear_before_reset": b.number(0, 1)} if kind == "GRU" else {}
    direction = "bidirectional" if both else b.one_of("forward", "reverse")
    out, _ = b.op(
        kind, inputs, (length, dirs, n, hidden), (dirs, n, hidden), hidden_size=hidden, direction=direction, **more
    )
    if dirs == 1:
        axes = {"axes": [1]} if b.opset < 13 else {}
        flat = b.op("Squeeze", [out] if b.opset < 13 else [out, b.ints(1)], (length, n, hidden), **axes)
        b.op("Transpose", [flat], (n, length, hidden), perm=[1, 0, 2])
    else:
        turned = b.op("Transpose", [out], (n, length, 2, hidden), perm=[2, 0, 1, 3])
        b.op("Reshape", [turned, b.ints(*b.one_of((0, 0, -1), (n, length, 2 * hidden)))], (n, length, 2 * hidden))


def layer_norm(b: Build) -> None:
    value = b.value(3)
    if value is None:
        return
    c = b.shapes[value][-1]
    if b.opset >= 17:
        b.same("LayerNormalization", value, b.weight(c), b.weight(c), axis=-1, epsilon=0.1)
        return
    low = (*b.shapes[value][:-1], 1)
    centred = b.same("Sub", value, b.op("ReduceMean", [value], low, axes=[-1]))
    spread = b.op("ReduceMean", [b.same("Mul", centred, centred)], low, axes=[-1])
    spread = b.same("Sqrt", b.same("Add", spread, b.tensor(np.array(0.1, np.float32))))
    b.same("Add", b.same("Mul", b.same("Div", centred, spread), b.weight(c)), b.weight(c))


def einsum(b: Build) -> None:
    value = b.value(3)
    if value is not None and b.opset >= 12:
        n, length, c = b.shapes[value]
        d = b.one_of(6, 8)
        b.op("Einsum", [value, b.weight(c, d, fan=c)], (n, length, d), equation="blc,cd->bld")


def convolve(b: Build) -> None:
    """A Conv over a sequence."""
    value = b.value(3)
    if value is None:
        return
    n, length, c = b.shapes[value]
    d = b.one_of(6, 8)
    turned = b.op("Transpose", [value], (n, c, length), perm=[0, 2, 1])
    made = b.op("Conv", [turned, b.weight(d, c, 3, fan=3 * c), b.weight(d)], (n, d, length), pads=[1, 1])
    b.op("Transpose", [made], (n, length, d), perm=[0, 2, 1])


def expand(b: Build) -> None:
    """Rows become a sequence: Unsqueeze and Expand."""
    value = b.value(2)
    if value is None:
        return
    n, c = b.shapes[value]
    rows = b.op(
        "Unsqueeze",
        [value, b.ints(1)] if b.opset >= 13 else [value],
        (n, 1, c),
        **({} if b.opset >= 13 else {"axes": [1]}),
    )
    b.op("Expand", [rows, b.ints(*b.one_of((n, 3, c), (1, 3, 1), (3, 1)))], (n, 3, c))


def rows(b: Build) -> None:
    """The mean of a sequence, or one of its tokens."""
    value = b.value(3)
    if value is None:
        return
    n, _, c = b.shapes[value]
    if b.chance(50):
        b.op("Gather", [value, b.tensor(np.array(b.one_of(0, -1), np.int64))], (n, c), axis=1)
    elif b.opset >= 18:
        b.op("ReduceMean", [value, b.ints(1)], (n, c), keepdims=0)
    else:
        b.op("ReduceMean", [value], (n, c), axes=[1], keepdims=0)


STEPS = (
    (linear, 5),
    (attention, 3),
    (recurrent, 2),
    (layer_norm, 1),
    (einsum, 1),
    (convolve, 1),
    (expand, 1),
    (rows, 1),
)
