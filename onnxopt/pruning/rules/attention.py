"""Fused attention: a unit is a head; with grouped queries a head of keys and values with the queries that share it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.passes.constants import int_attribute
from onnxopt.pruning.adjust import CountAttribute
from onnxopt.pruning.channels import Axis, Ids
from onnxopt.pruning.rules.elementwise import read
from onnxopt.pruning.walk import Declined, Linear, Walk

__all__ = ["attention", "multi_head", "packed"]

FIXED = "attention reads it together with what is never cut"


def _heads(ids: Axis, count: int, walk: Walk) -> Axis:
    """One id a head, the channels of each tied together."""
    if ids is None:
        return None
    table = ids.reshape(count, -1)
    for row in table:
        walk.channels.unite_all(row)
    return table[:, 0].copy()


def attention(node: ir.Node, walk: Walk) -> None:
    """``Attention`` of the default domain (opset 23): 3-D inputs (batch, length, heads * width) or 4-D ones."""
    if any(value is not None for value in node.inputs[4:6]) or _gives_more(node):
        raise Declined("it has a state of keys and values")
    query, key, value = (read(node, i) for i in range(3))
    rank = len(walk.shape(query))
    if rank == 4:
        queries, shared = walk.shape(query)[1], walk.shape(key)[1]
        rows: list[Axis] = []
        for item in (query, key, value):
            walk.pin_axes(item, (0, 2, 3), "attention runs over it")
            rows.append(walk.axis(item, 1))
    else:
        queries, shared = (int_attribute(node, k, 0) or 0 for k in ("q_num_heads", "kv_num_heads"))
        if not queries or not shared:
            raise Declined("its number of heads is not known")
        for item in (query, key, value):
            walk.pin_axes(item, (0, 1), "attention runs over it")
        counts = (queries, shared, shared)
        rows = [_heads(walk.axis(v, 2), n, walk) for v, n in zip((query, key, value), counts, strict=True)]
    q, k, v = rows
    kv = walk.tie(k, v, FIXED)
    spread = None if kv is None else np.repeat(kv, queries // shared)
    q = walk.tie(q, spread, FIXED)
    _mask(node, 3, q, walk)
    if rank == 4:
        walk.put(node.outputs[0], [None, q, None, None])
        return
    if q is not None and kv is not None:
        walk.adjustments += [CountAttribute(node, "q_num_heads", q), CountAttribute(node, "kv_num_heads", kv)]
    width = walk.shape(value)[2] // shared
    walk.put(node.outputs[0], [None, None, None if q is None else np.repeat(q, width)])


def _mask(node: ir.Node, index: int, heads: Axis, walk: Walk) -> None:
    mask = node.inputs[index] if len(node.inputs) > index else None
    if mask is None or len(walk.shape(mask)) < 3:
        return
    if walk.shape(mask)[-3] != 1:
        walk.tie(walk.axis(mask, -3), heads, "its mask is never cut")


def _gives_more(node: ir.Node) -> bool:
    """Whether it also gives keys, values or weights, which have an axis of heads that is not followed."""
    return any(output.uses() or output.is_graph_output() for output in node.outputs[1:])


def multi_head(node: ir.Node, walk: Walk) -> None:
    """``com.microsoft.MultiHeadAttention`` with separate inputs (batch, length, heads * width)."""
    inputs = [node.inputs[i] if i < len(node.inputs) else None for i in range(8)]
    query, key, value = inputs[:3]
    if query is None or key is None or value is None or any(v is not None for v in inputs[6:]) or _gives_more(node):
        raise Declined("its inputs are packed, or it has a state")
    if any(len(walk.shape(v)) != 3 for v in (query, key, value)):
        raise Declined("its inputs are packed")
    count = int_attribute(node, "num_heads", 0)
    if not count:
        raise Declined("its number of heads is not known")
    for item in (query, key, value):
        walk.pin_axes(item, (0, 1), "attention runs over it")
    heads: Axis = _heads(walk.axis(query, 2), count, walk)
    for item in (key, value):
        heads = walk.tie(heads, _heads(walk.axis(item, 2), count, walk), FIXED)
    if inputs[3] is not None:
        _packed_bias(inputs[3], heads, count, (walk.shape(query)[2], walk.shape(key)[2], walk.shape(value)[2]), walk)
    _mask(node, 5, heads, walk)
    _put(node, heads, walk.shape(value)[2] // count, walk)


def packed(node: ir.Node, walk: Walk) -> None:
    """``com.microsoft.Attention``: weight (in, q + k + v) of its own."""
    data, weight = read(node), read(node, 1)
    inputs = [node.inputs[i] if i < len(node.inputs) else None for i in range(7)]
    bias = inputs[2]
    if not walk.is_constant(weight) or inputs[4] is not None or inputs[6] is not None or _gives_more(node):
        raise Declined("its weights are no constant, or it has a state")
    count, total = int_attribute(node, "num_heads", 0), walk.shape(weight)[1]
    sizes = tuple(node.attributes.get_ints("qkv_hidden_sizes") or (total // 3,) * 3)
    if not count or len(set(sizes)) != 1:
        raise Declined("its heads differ in width")
    walk.pin_axes(data, (0, 1), "attention runs over it")
    walk.tie(walk.axis(data, 2), walk.axis(weight, 0), FIXED)
    heads = _united(walk.axis(weight, 1), count, walk)
    if bias is not None:
        _packed_bias(bias, heads, count, sizes, walk)
    _mask(node, 5, heads, walk)
    walk.linears.append(Linear(node, data, 2, weight, 0, 1, bias))
    if "qkv_hidden_sizes" in node.attributes and heads is not None:
        walk.channels.pin(heads, "the widths are written out")
    _put(node, heads, sizes[0] // count, walk)


def _united(ids: Axis, count: int, walk: Walk) -> Axis:
    """One id a head of packed queries, keys and values."""
    if ids is None:
        return None
    table = ids.reshape(3, count, -1)
    for head in range(count):
        walk.channels.unite_all(table[:, head])
    return table[0, :, 0].copy()


def _packed_bias(bias: ir.Value, heads: Axis, count: int, sizes: tuple[int, ...], walk: Walk) -> None:
    if not walk.is_constant(bias) or len(set(sizes)) != 1:
        walk.pin(bias, FIXED)
        walk.channels.pin(heads, FIXED)
        return
    walk.tie(_united(walk.axis(bias, 0), count, walk), heads, FIXED)


def _put(node: ir.Node, heads: Axis, width: int, walk: Walk) -> None:
    made: Ids | None = None
    if heads is not None:
        walk.adjustments.append(CountAttribute(node, "num_heads", heads))
        made = np.repeat(heads, width)
    walk.put(node.outputs[0], [None, None, made])
