"""Small quantized models whose sums of two products saturate without VNNI, and some whose do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
DATA_SCALE, HIGH = np.float32(0.02), 5.0
"""Activations lie in -0.2 .. 5, so that their codes fill the grid."""


@dataclass(frozen=True)
class Case:
    """A model, an input for it, and whether its kernel saturates on AVX2."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    saturates: bool


class _Draft:
    """Collects nodes and constants of one model."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def put(self, name: str, array: Any, dtype: Any = None) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def add(self, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=outputs[0], **attributes))

    def model(self, shape: tuple[int, ...], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", kind, None)],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _codes(rng: np.random.Generator, shape: tuple[int, ...], spread: float, dtype: type) -> Array:
    codes = np.clip(np.rint(rng.normal(0, spread, shape)), -127, 127).astype(np.int8)
    return codes if dtype is np.int8 else (codes.astype(int) + 128).astype(np.uint8)


def layer(
    name: str,
    op_type: str,
    weight: tuple[int, ...],
    data: tuple[int, ...],
    *,
    saturates: bool = True,
    spread: float = 40,
    weights: type = np.int8,
    activations: type = np.uint8,
    quantized_output: bool = True,
    bias: bool = True,
    **attributes: Any,
) -> Case:
    """One Conv, Gemm or MatMul in QDQ form; ``weight`` and ``data`` are shapes."""
    rng, draft = np.random.default_rng(len(name)), _Draft()
    axis = 0 if op_type == "Conv" or attributes.get("transB") else 1
    channels, dot = weight[axis], int(np.prod(weight)) // weight[axis]
    signed = activations is np.int8
    scale = (0.01 * rng.uniform(0.5, 1, channels)).astype(np.float32)
    zero = 0 if weights is np.int8 else 128
    out = np.float32(np.sqrt(dot) * spread * 128 * 0.01 * 0.02 / 60)
    codes = draft.put("w", _codes(rng, weight, spread, weights))
    steps = [draft.put("xs", DATA_SCALE), draft.put("xz", -118 if signed else 10, activations)]
    draft.add("QuantizeLinear", ["x", *steps], ["xq"])
    draft.add("DequantizeLinear", ["xq", *steps], ["xd"])
    grid = [draft.put("ws", scale), draft.put("wz", np.full(channels, zero), weights)]
    draft.add("DequantizeLinear", [codes, *grid], ["wd"], axis=axis)
    inputs = ["xd", "wd"]
    if bias and op_type != "MatMul":
        stored = draft.put("b", rng.integers(-1000, 1000, channels), np.int32)
        grid = [draft.put("bs", scale * DATA_SCALE), draft.put("bz", np.zeros(channels), np.int32)]
        draft.add("DequantizeLinear", [stored, *grid], ["bd"], axis=0)
        inputs.append("bd")
    draft.add(op_type, inputs, ["s"], **attributes)
    if quantized_output:
        steps = [draft.put("ys", out), draft.put("yz", -8 if signed else 120, activations)]
        draft.add("QuantizeLinear", ["s", *steps], ["yq"])
        draft.add("DequantizeLinear", ["yq", *steps], ["y"])
    else:
        draft.add("Identity", ["s"], ["y"])
    feeds = {"x": rng.uniform(-0.2, HIGH, data).astype(np.float32)}
    return Case(name, draft.model(data), feeds, saturates)


def dynamic(name: str, data: tuple[int, ...], channels: int, *, finish: bool, zero: int = 0) -> Case:
    """MatMulInteger behind DynamicQuantizeLinear; with ``finish`` in the form that becomes one kernel."""
    rng, draft = np.random.default_rng(len(name)), _Draft()
    draft.add("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])
    codes = draft.put("w", _codes(rng, (data[-1], channels), 50, np.int8))
    draft.add("MatMulInteger", ["xq", codes, "xz", draft.put("wz", np.full(channels, zero), np.int8)], ["sums"])
    if finish:
        draft.add("Cast", ["sums"], ["real"], to=TensorProto.FLOAT)
        draft.add("Mul", ["xs", draft.put("ws", rng.uniform(0.005, 0.01, channels), np.float32)], ["scale"])
        draft.add("Mul", ["real", "scale"], ["y"])
    else:
        draft.add("Identity", ["sums"], ["y"])
    feeds = {"x": rng.uniform(-0.2, HIGH, data).astype(np.float32)}
    return Case(name, draft.model(data, TensorProto.FLOAT if finish else TensorProto.INT32), feeds, True)


def conv_integer(name: str, dtype: type) -> Case:
    """ConvInteger, which is exact everywhere."""
    rng, draft = np.random.default_rng(len(name)), _Draft()
    draft.add("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])
    codes, zero = draft.put("w", _codes(rng, (8, 8, 3, 3), 50, dtype)), 0 if dtype is np.int8 else 128
    draft.add("ConvInteger", ["xq", codes, "xz", draft.put("wz", zero, dtype)], ["y"], pads=[1] * 4)
    feeds = {"x": rng.uniform(-0.2, HIGH, (1, 8, 6, 6)).astype(np.float32)}
    return Case(name, draft.model((1, 8, 6, 6), TensorProto.INT32), feeds, False)


PAD = {"pads": [1] * 4}
IMAGE = (1, 16, 7, 7)
CASES: tuple[Callable[[], Case], ...] = (
    lambda: layer("conv 3x3", "Conv", (16, 16, 3, 3), IMAGE, **PAD),
    lambda: layer("conv 3x3, odd channels", "Conv", (20, 3, 3, 3), (1, 3, 7, 7), spread=60, **PAD),
    lambda: layer("conv 3x3, no bias", "Conv", (20, 12, 3, 3), (1, 12, 5, 9), bias=False, **PAD),
    lambda: layer("conv 1x1", "Conv", (16, 32, 1, 1), (2, 32, 7, 7)),
    lambda: layer("conv, strides", "Conv", (24, 12, 3, 3), (2, 12, 7, 8), strides=[2, 1], **PAD),
    lambda: layer("conv, dilations", "Conv", (16, 16, 3, 3), (1, 16, 9, 9), dilations=[2, 3], pads=[1, 0, 2, 3]),
    lambda: layer("conv, groups", "Conv", (16, 8, 3, 3), IMAGE, group=2, **PAD),
    lambda: layer("conv over time", "Conv", (16, 6, 5), (1, 6, 30), pads=[2, 2]),
    lambda: layer("conv over volumes", "Conv", (8, 4, 3, 3, 3), (1, 4, 5, 5, 5), pads=[1] * 6),
    lambda: layer("depthwise, 2 outputs each", "Conv", (8, 1, 3, 3), (1, 4, 7, 7), group=4, spread=90, **PAD),
    lambda: layer("depthwise", "Conv", (16, 1, 3, 3), IMAGE, group=16, spread=90, saturates=False, **PAD),
    lambda: layer("depthwise, odd", "Conv", (12, 1, 3, 3), (1, 12, 7, 7), group=12, saturates=False, **PAD),
    lambda: layer("conv, u8 weights", "Conv", (16, 16, 3, 3), IMAGE, weights=np.uint8, saturates=False, **PAD),
    lambda: layer("conv, s8 activations", "Conv", (16, 16, 3, 3), IMAGE, activations=np.int8, **PAD),
    lambda: layer("matmul", "MatMul", (37, 18), (2, 5, 37), spread=50),
    lambda: layer("matmul, long", "MatMul", (600, 18), (1, 30, 600)),
    lambda: layer("matmul, float output", "MatMul", (40, 18), (1, 5, 40), spread=50, quantized_output=False),
    lambda: layer("matmul, u8 weights", "MatMul", (40, 18), (1, 5, 40), weights=np.uint8, saturates=False),
    lambda: layer("gemm", "Gemm", (40, 18), (5, 40), spread=50),
    lambda: layer("gemm, transposed", "Gemm", (18, 41), (5, 41), spread=50, transB=1),
    lambda: layer("gemm, float output", "Gemm", (40, 18), (5, 40), spread=60, quantized_output=False),
    lambda: dynamic("dynamic sums", (6, 50), 20, finish=False),
    lambda: dynamic("dynamic sums, batch", (2, 3, 48), 20, finish=False),
    lambda: dynamic("dynamic sums, zero point", (6, 50), 20, finish=False, zero=3),
    lambda: dynamic("dynamic", (6, 50), 20, finish=True),
    lambda: dynamic("dynamic, one row", (1, 64), 20, finish=True),
    lambda: conv_integer("conv integer", np.int8),
    lambda: conv_integer("conv integer, u8 weights", np.uint8),
)
