"""Steps of random graphs on values of the form (batch, channels, height, width)."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper

from tests.pruning.random_graphs import Build, Shape


def conv(b: Build) -> None:
    value = b.value(4)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    kernel = b.one_of(1, 3)
    group = b.one_of(1, 1, *[g for g in (2, 3, 4) if c % g == 0])
    made = b.one_of(6, 8, 12, 24 if group > 1 else 4) // group * group
    stride = 2 if min(h, w) >= 4 and b.chance(15) else 1
    inputs = [value, b.weight(made, c // group, kernel, kernel, fan=c // group * kernel**2)]
    if b.chance(60):
        inputs.append(b.weight(made))
    shape = (n, made, math.ceil(h / stride), math.ceil(w / stride))
    b.op("Conv", inputs, shape, group=group, pads=[kernel // 2] * 4, strides=[stride] * 2)


def depthwise(b: Build) -> None:
    value = b.value(4)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    each = b.one_of(1, 1, 2)
    inputs = [value, b.weight(c * each, 1, 3, 3, fan=9)]
    if b.chance(60):
        inputs.append(b.weight(c * each))
    b.op("Conv", inputs, (n, c * each, h, w), group=c, pads=[1] * 4)


def conv_transpose(b: Build) -> None:
    value = b.value(4, lambda s: max(s[2:]) <= 8)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    group = b.one_of(1, 1, c, *[g for g in (2, 3) if c % g == 0])
    each = b.one_of(1, 2) if group == c else b.one_of(3, 4)
    inputs = [value, b.weight(c, each, 2, 2, fan=c // group)]
    if b.chance(60):
        inputs.append(b.weight(each * group))
    b.op("ConvTranspose", inputs, (n, each * group, 2 * h, 2 * w), group=group, strides=[2, 2])


def batch_norm(b: Build) -> None:
    value = b.value(b.one_of(4, 4, 3))
    if value is None:
        return
    c = b.shapes[value][1]
    b.same("BatchNormalization", value, b.weight(c), b.weight(c), b.weight(c), b.weight(c, positive=True))


def instance_norm(b: Build) -> None:
    value = b.value(4, lambda s: s[2] * s[3] >= 4)
    if value is not None:
        c = b.shapes[value][1]
        b.same("InstanceNormalization", value, b.weight(c), b.weight(c), epsilon=0.1)


def group_norm(b: Build) -> None:
    """The operator where there is one; else Reshape, InstanceNormalization, Reshape, scale and shift."""
    value = b.value(4, lambda s: s[1] % 2 == 0 and s[2] * s[3] >= 4)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    groups = b.one_of(*[g for g in (2, 3, 4, c) if c % g == 0])
    if b.opset >= 21 and b.chance(70):
        b.same("GroupNormalization", value, b.weight(c), b.weight(c), num_groups=groups, epsilon=0.1)
        return
    flat = b.op("Reshape", [value, b.ints(0, groups, -1)], (n, groups, c // groups * h * w))
    ones, zeros = (b.tensor(np.full(groups, k, np.float32)) for k in (1, 0))
    normed = b.op("InstanceNormalization", [flat, ones, zeros], b.shapes[flat], epsilon=0.1)
    back = b.op("Reshape", [normed, _shape_of(b, value)], (n, c, h, w))
    b.same("Add", b.same("Mul", back, b.weight(c, 1, 1)), b.weight(1, c, 1, 1))


def _shape_of(b: Build, value: str) -> str:
    """The shape of a value: as numbers or read by Shape."""
    shape = b.shapes[value]
    if b.chance(40):
        return b.hidden("Shape", value)
    return b.ints(*b.one_of(shape, (0, *shape[1:]), (-1, *shape[1:]), (shape[0], -1, *shape[2:])))


def layer_norm(b: Build) -> None:
    """Over the channels, between two Transposes."""
    value = b.value(4)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    last = b.op("Transpose", [value], (n, h, w, c), perm=[0, 2, 3, 1])
    if b.opset >= 17 and b.chance(50):
        last = b.same("LayerNormalization", last, b.weight(c), b.weight(c), axis=-1, epsilon=0.1)
    elif b.chance(50):
        last = b.same("Mul", last, b.weight(c))
    else:
        d = b.one_of(6, 8)
        last = b.op("MatMul", [last, b.weight(c, d, fan=c)], (n, h, w, d))
        last = b.same("Add", last, b.weight(d))
    b.op("Transpose", [last], (n, b.shapes[last][3], h, w), perm=[0, 3, 1, 2])


def resample(b: Build) -> None:
    value = b.value(4, lambda s: max(s[2:]) <= 8)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    mode = b.one_of("nearest", "linear")
    none = b.tensor(np.zeros(0, np.float32)) if b.opset < 13 else ""
    if b.chance(50):
        scales = b.tensor(np.array([1, 1, 2, 2], np.float32))
        b.op("Resize", [value, none, scales], (n, c, 2 * h, 2 * w), mode=mode)
    elif b.opset >= 18 and b.chance(50):
        b.op("Resize", [value, "", "", b.ints(2 * h, 2 * w)], (n, c, 2 * h, 2 * w), mode=mode, axes=[2, 3])
    else:
        b.op("Resize", [value, none, none, b.ints(n, c, 2 * h, 2 * w)], (n, c, 2 * h, 2 * w), mode=mode)


def pool(b: Build) -> None:
    value = b.value(4, lambda s: min(s[2:]) >= 2)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    kind = b.one_of("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
    if kind.startswith("Global"):
        b.op(kind, [value], (n, c, 1, 1))
    else:
        b.op(kind, [value], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])


def excite(b: Build) -> None:
    value = b.value(4)
    if value is None:
        return
    n, c = b.shapes[value][:2]
    if b.chance(50):
        pooled = b.op("GlobalAveragePool", [value], (n, c, 1, 1))
    elif b.opset >= 18:
        pooled = b.op("ReduceMean", [value, b.ints(-1, -2)], (n, c, 1, 1), keepdims=1)
    else:
        pooled = b.op("ReduceMean", [value], (n, c, 1, 1), axes=[2, 3], keepdims=1)
    small = b.op("Conv", [pooled, b.weight(4, c, 1, 1, fan=c), b.weight(4)], (n, 4, 1, 1))
    wide = b.op("Conv", [b.same("Relu", small), b.weight(c, 4, 1, 1, fan=4)], (n, c, 1, 1))
    b.same("Mul", value, b.same(b.one_of("Sigmoid", "HardSigmoid"), wide))


def shuffle(b: Build) -> None:
    value = b.value(4, lambda s: s[1] % 2 == 0)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    groups = b.one_of(*[g for g in (2, 3, 4) if c % g == 0])
    lead = b.one_of(0, n, -1)
    split = b.op("Reshape", [value, b.ints(lead, groups, c // groups, h, w)], (n, groups, c // groups, h, w))
    turned = b.op("Transpose", [split], (n, c // groups, groups, h, w), perm=[0, 2, 1, 3, 4])
    b.op("Reshape", [turned, b.ints(*b.one_of((n, c, h, w), (0, -1, h, w), (-1, c, h, w)))], (n, c, h, w))


def depth_to_space(b: Build) -> None:
    value = b.value(4, lambda s: s[1] % 4 == 0 and max(s[2:]) <= 8)
    if value is not None:
        n, c, h, w = b.shapes[value]
        b.op("DepthToSpace", [value], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=b.one_of("DCR", "CRD"))


def space_to_depth(b: Build) -> None:
    value = b.value(4, lambda s: s[2] % 2 == s[3] % 2 == 0 and s[1] <= 12)
    if value is not None:
        n, c, h, w = b.shapes[value]
        b.op("SpaceToDepth", [value], (n, 4 * c, h // 2, w // 2), blocksize=2)


def pad(b: Build) -> None:
    value = b.value(4, lambda s: min(s[2:]) >= 2)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    more = 1 if b.chance(20) else 0
    mode = b.one_of("constant", "reflect", "edge") if not more else "constant"
    inputs = [value, b.ints(0, more, 1, 0, 0, 0, 0, 1)]
    if mode == "constant" and b.chance(60):
        inputs.append(b.tensor(np.array(b.one_of(0, 0.5), np.float32)))
    b.op("Pad", inputs, (n, c + more, h + 1, w + 1), mode=mode)


def flat(b: Build) -> None:
    value = b.value(4, lambda s: s[1] * s[2] * s[3] <= 1024)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    size = c * h * w
    if b.chance(50):
        flat = b.op("Flatten", [value], (n, size), axis=b.one_of(1, -3))
    else:
        flat = b.op("Reshape", [value, b.ints(*b.one_of((0, -1), (n, size), (-1, size)))], (n, size))
    d = b.one_of(6, 8)
    b.op("Gemm", [flat, b.weight(d, size, fan=size), b.weight(d)], (n, d), transB=1)


def tokens(b: Build) -> None:
    """(batch, channels, height, width) -> (batch, height * width, channels)."""
    value = b.value(4, lambda s: s[2] * s[3] <= 16)
    if value is None:
        return
    n, c, h, w = b.shapes[value]
    rows = b.op(
        "Reshape", [value, b.ints(*b.one_of((0, c, -1), (0, 0, -1), (n, c, h * w), (n, -1, h * w)))], (n, c, h * w)
    )
    b.op("Transpose", [rows], (n, h * w, c), perm=[0, 2, 1])


def condition(b: Build) -> None:
    """An If whose branches read the value, with layers of their own."""
    value = b.value(4)
    if value is None or b.parent is not None:
        return
    n, c, h, w = b.shapes[value]
    flag = b.tensor(np.array(b.chance(50)))
    branches = [_branch(b, value, kind) for kind in (b.one_of("conv", "two"), b.one_of("relu", "two"))]
    b.used.add(value)
    b.op("If", [flag], (n, c, h, w), then_branch=branches[0], else_branch=branches[1])


def _branch(b: Build, value: str, kind: str):
    shape: Shape = b.shapes[value]
    c = shape[1]
    inner = Build(b.opset, b.rng, shapes={value: shape}, parent=b)
    if kind == "relu":
        last = inner.same("Relu", value)
    elif kind == "conv":
        last = inner.op("Conv", [value, inner.weight(c, c, 1, 1, fan=c), inner.weight(c)], shape)
    else:
        mid = inner.op("Conv", [value, inner.weight(6, c, 1, 1, fan=c)], (shape[0], 6, *shape[2:]))
        last = inner.op("Conv", [inner.same("Relu", mid), inner.weight(c, 6, 1, 1, fan=6)], shape)
    info = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
    for name in inner.shapes:
        if name != value:
            del b.shapes[name]
            b.shapes[f"inner {name}"] = ()  # the count of names goes on
            b.used.add(f"inner {name}")
    return helper.make_graph(inner.nodes, f"body_{last}", [], [info], inner.initializers)


STEPS = (
    (conv, 6),
    (depthwise, 2),
    (conv_transpose, 2),
    (batch_norm, 3),
    (instance_norm, 1),
    (group_norm, 2),
    (layer_norm, 2),
    (resample, 1),
    (pool, 2),
    (excite, 2),
    (shuffle, 2),
    (depth_to_space, 1),
    (space_to_depth, 1),
    (pad, 1),
    (flat, 1),
    (tokens, 2),
    (condition, 1),
)
