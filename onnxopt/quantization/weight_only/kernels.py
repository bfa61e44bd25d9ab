"""Whether a target runs the operators on blocks: each is tried in a model of one node."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx_ir as ir

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.errors import InputError
from onnxopt.passes.base import Context
from onnxopt.quantization.weight_only.blocks import BlockGrid, Blocks
from onnxopt.quantization.weight_only.rounding import rtn
from onnxopt.quantization.weight_only.sites import Kind
from onnxopt.run.session import open_session

__all__ = ["ACCURACY_LEVEL", "DOMAIN", "attributes", "constants", "missing_kernels", "operator"]

DOMAIN = "com.microsoft"
ACCURACY_LEVEL = 4
"""Activations are rounded to 8 bits, block by block. On x86 the float form of 8-bit weights unpacks them in each run
(measured: 0.04x of float for one row of 4096, against 2.6x), that of 4 bits is slower for few rows."""
OPSET, IR_VERSION = 13, 8
OPERATORS: dict[Kind, str] = {"product": "MatMulNBits", "table": "GatherBlockQuantized"}


def operator(kind: Kind) -> str:
    """The operator of ``com.microsoft`` that stands for a product with, or a lookup in, a weight in blocks."""
    return OPERATORS[kind]


def attributes(kind: Kind, blocks: Blocks) -> list[ir.Attr]:
    """The attributes of that operator."""
    grid, rows = blocks.grid, len(blocks.codes)
    common = {"bits": grid.bits, "block_size": grid.block_size}
    if kind == "table":
        own = {"gather_axis": 0, "quantize_axis": 1}
    else:
        own = {"K": blocks.columns, "N": rows, "accuracy_level": ACCURACY_LEVEL}
    return [ir.AttrInt64(name, value) for name, value in {**common, **own}.items()]


def constants(kind: Kind, blocks: Blocks) -> dict[str, Array]:
    """The constant inputs of that operator in order: the codes, the scales, and zero points unless symmetric."""
    codes = blocks.packed() if kind == "product" else blocks.packed_rows()
    zero_points = blocks.packed_zero_points()
    found = {"codes": codes, "scales": blocks.scale}
    return found if zero_points is None else {**found, "zero_points": zero_points}


def missing_kernels(grid: BlockGrid, ctx: Context) -> dict[Kind, str]:
    """Why the target cannot run some kinds of nodes; the others it can."""
    found: dict[Kind, str] = {}
    for kind in get_args(Kind):
        path = ctx.workdir / f"probe-{kind}.onnx"
        save_scratch(_probe(kind, grid), path)
        try:
            session = open_session(path, ctx.target)
        except InputError:
            session = None
        if session is None or session.fallback or session.declined is not None:
            found[kind] = f"{ctx.target.provider} cannot run {operator(kind)} with {grid.bits} bits"
    return found


def _probe(kind: Kind, grid: BlockGrid) -> Model:
    rows = columns = 2 * grid.block_size
    weight = np.linspace(-1, 1, rows * columns, dtype=np.float32).reshape(rows, columns)
    blocks = rtn(weight, grid)
    is_table = kind == "table"
    kind_of_data = ir.TensorType(ir.DataType.INT64 if is_table else ir.DataType.FLOAT)
    data = ir.Value(name="x", type=kind_of_data, shape=ir.Shape([1] if is_table else [1, columns]))
    values = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name), type=ir.TensorType(ir.tensor(array).dtype))
        for name, array in constants(kind, blocks).items()
    ]
    inputs = [values[0], data, *values[1:]] if is_table else [data, *values]
    node = ir.Node(DOMAIN, operator(kind), inputs, attributes(kind, blocks), num_outputs=1, name="probe")
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    imports = {"": OPSET, DOMAIN: 1}
    graph = ir.Graph([data], node.outputs, nodes=[node], initializers=values, opset_imports=imports, name="probe")
    return ir.Model(graph, ir_version=IR_VERSION)
