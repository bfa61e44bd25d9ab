"""A fixed model whose latency tells how fast a machine is just now: what stored figures are measured against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt.core.io import save_scratch
from onnxopt.run.session import Feeds

__all__ = ["PROBE_VERSION", "probe_feeds", "write_probe"]

PROBE_VERSION = 1
"""Changes with the graph: ratios to different probes cannot be compared."""
INPUT = "onnxopt_probe"
SHAPE = (1, 32, 28, 28)
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
probe (float[1, 32, 28, 28] onnxopt_probe) => (float[98, 256] probe)
<int64[4] kernel_shape = {32, 32, 3, 3}, int64[2] square = {256, 256}, int64[2] rows = {98, 256}>
{
    kernel = ConstantOfShape <value = float[1] {0.01}> (kernel_shape)
    matrix = ConstantOfShape <value = float[1] {0.01}> (square)
    c0 = Conv <pads = [1, 1, 1, 1]> (onnxopt_probe, kernel)
    r0 = Relu (c0)
    c1 = Conv <pads = [1, 1, 1, 1]> (r0, kernel)
    flat = Reshape (c1, rows)
    p0 = MatMul (flat, matrix)
    s0 = Sigmoid (p0)
    p1 = MatMul (s0, matrix)
    probe = Softmax (p1)
}
"""
"""Convolutions, matrix products and element-wise work: half a millisecond on a core of 2024."""


def write_probe(path: Path) -> Path:
    """Writes the probe to ``path``."""
    save_scratch(ir.from_onnx_text(GRAPH), path)
    return path


def probe_feeds() -> Feeds:
    """The input of the probe."""
    return {INPUT: np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)}
