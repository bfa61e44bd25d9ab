"""A Scan written as a Loop that computes the same.

Source: ONNX Scan-9 and Loop-11: a Scan reads slice ``i`` of each scanned input along its axis, forwards or backwards;
a Loop counts, and joins its scan outputs forwards along axis 0.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, graph_of, remove_node

__all__ = ["scan_as_loop"]

FROM_THE_END = np.iinfo(np.int64).min


def scan_as_loop(edit: Editor, node: ir.Node) -> ir.Node | None:
    """The Loop that has replaced the Scan ``node``; ``None``, and nothing is changed: an output's rank is not known.

    Args:
        edit: Editor of the model, which has opset 11 or above.
        node: A Scan of opset 9 or above.
    """
    body = node.attributes["body"].as_graph()
    scanned = node.attributes["num_scan_inputs"].as_int()
    states = len(node.inputs) - scanned
    stacked = len(node.outputs) - states
    ranks = [None if v.shape is None else len(v.shape) + 1 for v in body.outputs[states:]]
    out_axes = _ints(node, "scan_output_axes", stacked)
    in_axes = _ints(node, "scan_input_axes", scanned)
    first, source = next(iter(body), None), node.inputs[states]
    if first is None or source is None or any(a and r is None for a, r in zip(out_axes, ranks, strict=True)):
        return None
    base = node.name or "scan"
    trips = _trips(edit, node, source, in_axes[0], base)
    inputs = [trips, edit.add_constant(f"{base}_go_on", np.array(True), before=node), *node.inputs[:states]]
    _count_in_body(edit, node, body, first, trips, states, in_axes, base)
    del node.attributes["body"]
    loop = ir.Node("", "Loop", inputs, [ir.AttrGraph("body", body)], num_outputs=len(node.outputs), name=node.name)
    graph_of(node).insert_after(node, loop)
    turned = _ints(node, "scan_output_directions", stacked)
    for index, output in enumerate(node.outputs):
        value = loop.outputs[index]
        value.name, value.type = edit.fresh_name(f"{output.name}_of_loop"), output.type
        if index >= states:
            at = index - states
            value = _placed(edit, value, bool(turned[at]), out_axes[at], ranks[at] or 0)
        name = output.name
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        output.name = None
        value.name, value.type, value.shape = name, output.type, output.shape
    node.name = edit.fresh_name(f"{base}_replaced")
    remove_node(node)
    return loop


def _trips(edit: Editor, node: ir.Node, source: ir.Value, axis: int, base: str) -> ir.Value:
    """The number of slices, () int64."""
    shape = edit.insert("Shape", [source], before=node, base=f"{base}_shape")
    index = edit.add_constant(f"{base}_axis", np.array(axis), before=node)
    trips = edit.insert("Gather", [shape, index], before=node, base=f"{base}_trips")
    trips.type = ir.TensorType(ir.DataType.INT64)
    return trips


def _count_in_body(
    edit: Editor,
    node: ir.Node,
    body: ir.Graph,
    first: ir.Node,
    trips: ir.Value,
    states: int,
    axes: list[int],
    base: str,
) -> None:
    """Lets the body take a counter and a condition, and the slices from outside."""
    number, flag = ir.TensorType(ir.DataType.INT64), ir.TensorType(ir.DataType.BOOL)
    step = ir.Value(name=edit.fresh_name(f"{base}_step"), type=number, shape=ir.Shape([]))
    going = ir.Value(name=edit.fresh_name(f"{base}_going"), type=flag, shape=ir.Shape([]))
    slices = list(body.inputs)[states:]
    for index, (old, axis, backwards) in enumerate(
        zip(slices, axes, _ints(node, "scan_input_directions", len(slices)), strict=True)
    ):
        at = step
        if backwards:
            one = edit.add_constant(f"{base}_one", np.array(1), before=first)
            last = edit.insert("Sub", [trips, one], before=first, base=f"{base}_last")
            at = edit.insert("Sub", [last, step], before=first, base=f"{base}_at")
        new = edit.insert(
            "Gather",
            [node.inputs[states + index], at],
            before=first,
            base=f"{base}_slice",
            attributes=[ir.AttrInt64("axis", axis)],
        )
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        name, old.name = old.name, edit.fresh_name(f"{old.name}_replaced")
        new.name, new.type, new.shape = name, old.type, old.shape
    kept = list(body.inputs)[:states]
    body.inputs.clear()
    body.inputs.extend([step, going, *kept])
    again = ir.node("Identity", [going], name=edit.fresh_name(f"{base}_again"))
    again.outputs[0].name, again.outputs[0].type = edit.fresh_name(f"{base}_going_on"), flag
    body.append(again)
    body.outputs.insert(0, again.outputs[0])


def _placed(edit: Editor, value: ir.Value, backwards: bool, axis: int, rank: int) -> ir.Value:
    """What a Loop has joined along axis 0, turned round and moved to ``axis``."""
    after = value.producer()
    if after is None:
        raise ValueError(f"{value.name!r} is made by no node")
    graph, added = graph_of(after), list[ir.Node]()

    def then(op_type: str, inputs: list[ir.Value], *attributes: ir.Attr) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes, num_outputs=1, name=edit.fresh_name(f"{value.name}_{op_type}"))
        node.outputs[0].name = edit.fresh_name(f"{value.name}_{op_type}_out")
        added.append(node)
        return node.outputs[0]

    if backwards:
        limits = [
            edit.add_constant(f"{value.name}_slice", np.array([number]), before=after)
            for number in (-1, FROM_THE_END, 0, -1)
        ]
        value = then("Slice", [value, *limits])
    if axis % max(rank, 1):
        order = [*range(1, rank)]
        order.insert(axis % rank, 0)
        value = then("Transpose", [value], ir.AttrInt64s("perm", order))
    graph.insert_after(after, added)
    return value


def _ints(node: ir.Node, name: str, count: int) -> list[int]:
    attribute = node.attributes.get(name)
    return [0] * count if attribute is None else list(attribute.as_ints())
