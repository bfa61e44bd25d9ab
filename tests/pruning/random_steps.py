"""Steps of random graphs on values of any rank; channels lie on axis 1 of images, on the last axis of others."""

from __future__ import annotations

import numpy as np

from tests.pruning.random_graphs import Build

LARGEST = (1 << 63) - 1


def activation(b: Build) -> None:
    value = b.value(b.one_of(4, 4, 3, 2))
    if value is None:
        return
    kind = b.one_of("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Elu", "Softplus", "Erf", "PRelu", "new", "Swish")
    if kind == "Clip":
        low, high = (b.tensor(np.array(k, np.float32)) for k in (-0.5, 2))
        b.same("Clip", value, low, *[high] * b.number(0, 1))
    elif kind == "PRelu":
        b.same("PRelu", value, b.weight(*_broadcast(b, b.shapes[value])))
    elif kind == "Swish":
        b.same("Mul", value, b.same("Sigmoid", value))
    elif kind == "new":
        b.same("Gelu" if b.opset >= 20 else "Mish" if b.opset >= 18 else "HardSwish" if b.opset >= 14 else "Neg", value)
    else:
        b.same(kind, value)


def _broadcast(b: Build, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to another, from its last axes."""
    rank = len(shape)
    shape = tuple(n if b.chance(60 if i == (1 if rank == 4 else rank - 1) else 15) else 1 for i, n in enumerate(shape))
    return shape[b.number(0, rank) :] if b.chance(50) else shape


def join(b: Build) -> None:
    """Two values of equal shape."""
    value = b.value(b.one_of(4, 4, 3, 2))
    if value is None:
        return
    other = b.alike(value)
    kind = b.one_of("Add", "Add", "Sub", "Mul", "Max", "Where", "Div", "Sum", "Concat")
    if kind == "Mul":
        b.same("Mul", b.same("Tanh", value), other)
    elif kind == "Div":
        size = b.same("Add", b.same("Abs", other), b.tensor(np.array(1, np.float32)))
        b.same("Div", value, size)
    elif kind == "Where":
        zero = b.tensor(np.array(0.1, np.float32))
        b.op("Where", [b.hidden("Greater", value, zero), value, other], b.shapes[value])
    elif kind == "Concat":
        concat(b)
    else:
        b.same(kind, value, other, *[b.alike(value)] * (b.number(0, 1) if kind in ("Max", "Sum") else 0))


def constants(b: Build) -> None:
    """A value and a constant that broadcasts to it."""
    value = b.value(b.one_of(4, 4, 3, 2))
    if value is None:
        return
    kind = b.one_of("Add", "Sub", "Mul", "Max", "Min", "Div", "Pow")
    shape = _broadcast(b, b.shapes[value])
    weight = b.weight(*shape, positive=kind in ("Div", "Pow"))
    if kind == "Pow":
        b.same("Pow", b.same("Sigmoid", value), weight)
    elif kind == "Div" and b.chance(40):
        below = b.same("Add", b.same("Abs", value), b.tensor(np.array(1, np.float32)))
        b.op("Div", [weight, below], b.shapes[value])
    else:
        inputs = [weight, value] if kind != "Div" and b.chance(40) else [value, weight]
        b.op(kind, inputs, b.shapes[value])


def _channels(rank: int) -> int:
    return 1 if rank == 4 else rank - 1


def concat(b: Build) -> None:
    value = b.value(b.one_of(4, 4, 3, 2))
    if value is None:
        return
    shape = b.shapes[value]
    own = _channels(len(shape)) if b.chance(80) else len(shape) - 1
    fits = [
        n
        for n, s in b.shapes.items()
        if len(s) == len(shape) and s[own] <= 24 and s[:own] + s[own + 1 :] == shape[:own] + shape[own + 1 :]
    ]
    parts = [value, *(b.one_of(*fits) for _ in range(b.number(1, 2)) if fits)]
    size = sum(b.shapes[p][own] for p in parts)
    axis = own if b.chance(60) else own - len(shape)
    b.op("Concat", parts, (*shape[:own], size, *shape[own + 1 :]), axis=axis)


def split(b: Build) -> None:
    value = b.value(b.one_of(4, 4, 3, 2), lambda s: s[_channels(len(s))] >= 4)
    if value is None:
        return
    size = b.shapes[value][_channels(len(b.shapes[value]))]
    first = b.number(1, size - 1)
    parts(b, value, _channels(len(b.shapes[value])), b.one_of([first, size - first], [size - size // 2, size // 2]))


def parts(b: Build, value: str, axis: int, sizes: list[int]) -> list[str]:
    shape = b.shapes[value]
    shapes = [(*shape[:axis], n, *shape[axis + 1 :]) for n in sizes]
    even = len(set(sizes)) == 1
    ceil = -(-sum(sizes) // len(sizes))
    counted = all(n == ceil for n in sizes[:-1]) and sizes[-1] <= ceil
    if b.opset >= 18 and counted and b.chance(60):
        return b.op("Split", [value], *shapes, axis=axis, num_outputs=len(sizes))
    if even and b.opset < 18 and b.chance(50):
        return b.op("Split", [value], *shapes, axis=axis)
    if b.opset < 13:
        return b.op("Split", [value], *shapes, axis=axis, split=sizes)
    return b.op("Split", [value, b.ints(*sizes)], *shapes, axis=axis - b.one_of(0, len(shape)))


def slice_(b: Build) -> None:
    value = b.value(b.one_of(4, 4, 3, 2), lambda s: s[_channels(len(s))] >= 4)
    if value is None:
        return
    shape = list(b.shapes[value])
    own = _channels(len(shape))
    size = shape[own]
    start = b.number(0, size - 2)
    end = b.number(start + 1, size)
    step = 2 if b.chance(15) else 1
    written = b.one_of(start, start - size), b.one_of(end, end - size if end < size else LARGEST, end)
    starts, ends, axes, steps = [written[0]], [written[1]], [b.one_of(own, own - len(shape))], [step]
    shape[own] = len(range(start, end, step))
    if len(shape) == 4 and shape[2] >= 3 and b.chance(30):
        starts, ends, axes, steps = [*starts, 1], [*ends, -1], [*axes, 2], [*steps, 1]
        shape[2] -= 2
    inputs = [value, b.ints(*starts), b.ints(*ends), b.ints(*axes)]
    if step != 1 or b.chance(50):
        inputs.append(b.ints(*steps))
    b.op("Slice", inputs, tuple(shape))


def gather(b: Build) -> None:
    value = b.value(b.one_of(4, 4, 3, 2))
    if value is None:
        return
    shape = b.shapes[value]
    own = _channels(len(shape))
    size = shape[own]
    picks = [b.number(-size, size - 1) for _ in range(b.number(2, 8))]
    b.op("Gather", [value, b.ints(*picks)], (*shape[:own], len(picks), *shape[own + 1 :]), axis=own)


def tile(b: Build) -> None:
    value = b.value(b.one_of(4, 3), lambda s: s[_channels(len(s))] <= 12)
    if value is None:
        return
    shape = b.shapes[value]
    own = _channels(len(shape))
    times = [2 if i == own else 1 for i in range(len(shape))]
    b.op("Tile", [value, b.ints(*times)], tuple(n * t for n, t in zip(shape, times, strict=True)))


def reduce(b: Build) -> None:
    """Over an axis that is not the channels, or now and then over them."""
    value = b.value(b.one_of(4, 3))
    if value is None:
        return
    shape = b.shapes[value]
    axis = b.number(1, len(shape) - 1)
    keep = 1 if len(shape) == 4 else b.number(0, 1)
    after = tuple(1 if i == axis else n for i, n in enumerate(shape) if keep or i != axis)
    kind = b.one_of("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")
    if b.opset >= (13 if kind == "ReduceSum" else 18):
        b.op(kind, [value, b.ints(axis)], after, keepdims=keep)
    else:
        b.op(kind, [value], after, axes=[axis], keepdims=keep)


def softmax(b: Build) -> None:
    value = b.value(b.one_of(4, 3, 2))
    if value is not None:
        b.same("Softmax", value, axis=b.number(1, len(b.shapes[value]) - 1))


STEPS = (
    (activation, 5),
    (join, 5),
    (constants, 4),
    (concat, 3),
    (split, 3),
    (slice_, 2),
    (gather, 2),
    (tile, 1),
    (reduce, 1),
    (softmax, 1),
)
