"""Which nodes would lose more than rounding in float16: too large, too small, or on their way to become integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model
from onnxopt.core.tensors import borrow
from onnxopt.passes.base import Context
from onnxopt.passes.constants import is_op, tensor_of
from onnxopt.run.tap import tap

__all__ = ["becoming_integers", "largest_values", "range_reason"]

LARGEST = 65504.0
HEADROOM = 2.0
"""Other samples may give values that are larger by this factor than those seen."""
SMALLEST = 2.0**-25
"""Half of the smallest positive float16: what is below becomes 0."""
ARITHMETIC = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Floor", "Ceil", "Round", "Sqrt", "Pow", "Mod", "Min", "Max", "Clip"),
    *(
        "Cast",
        "Concat",
        "Gather",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Transpose",
        "Identity",
        "Range",
        "Expand",
    ),
)
INTEGERS = frozenset(
    t for t in ir.DataType if t.name.startswith(("INT", "UINT")) or t in (ir.DataType.BOOL, ir.DataType.STRING)
)


def largest_values(model: Model, names: Sequence[str], ctx: Context) -> dict[str, float]:
    """The largest finite magnitude of each named value of the main graph on the data; nothing without real data."""
    found: dict[str, float] = {}
    data = ctx.data
    if data is None or data.synthetic or not names:
        return found
    with ctx.progress.task("looking for large values", len(data)) as advance:
        for index, values in enumerate(tap(model, names, lambda: (s.feeds for s in data), ctx.target, ctx.workdir)):
            for name, array in values.items():
                magnitude = np.abs(array)
                peak = float(magnitude.max(initial=0.0, where=np.isfinite(magnitude)))
                found[name] = max(found.get(name, 0.0), peak)
            advance(1 if index < len(data) else 0)
    return found


def range_reason(node: ir.Node, largest: Mapping[str, float]) -> str | None:
    """Why ``node`` cannot take or give its values in float16; ``None``: nothing speaks against it."""
    for value in (*node.inputs, *node.outputs):
        if value is None or value.dtype != ir.DataType.FLOAT:
            continue
        tensor = tensor_of(value)
        if tensor is None:
            seen = largest.get(value.name or "", 0.0)
            if seen * HEADROOM > LARGEST:
                return f"{value.name} reaches {seen:.3g}, and float16 ends at {LARGEST:g}"
            continue
        with borrow(tensor) as array:
            magnitude = np.abs(array)
            peak = float(magnitude.max(initial=0.0, where=np.isfinite(magnitude)))
        if peak > LARGEST:
            return f"its constant {value.name} holds {peak:.3g}, and float16 ends at {LARGEST:g}"
        if 0 < peak < SMALLEST:
            return f"its constant {value.name} of {peak:.3g} would become 0"
    return None


def becoming_integers(nodes: Iterable[ir.Node]) -> frozenset[ir.Node]:
    """Casts of floats to integers, and the arithmetic that leads there: sizes, positions, indices."""
    found: set[ir.Node] = set()
    waiting = [n for n in nodes if is_op(n, "Cast") and n.outputs[0].dtype in INTEGERS and _is_float(n.inputs[0])]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        for value in node.inputs:
            producer = None if value is None or not _is_float(value) else value.producer()
            if producer is not None and is_op(producer, *ARITHMETIC):
                waiting.append(producer)
    return frozenset(found)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT
