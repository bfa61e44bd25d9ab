"""Quantizing on what another tool, or an earlier run, has left in float."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnxopt.core.io import load, save
from onnxopt.errors import ModelError, NothingChangedError
from onnxopt.quantization.existing import require_float
from onnxopt.quantization.static import StaticQuantize
from tests.quantization.conftest import Lab

CHAIN = (
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 8, 8, 8] x) => (float[N, 8, 8, 8] y) {'
    " a = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (a)"
    " c = Conv <pads = [1, 1, 1, 1]> (r, v, d) s = Relu (c)"
    " y = Conv <pads = [1, 1, 1, 1]> (s, u, e) }"
)
INTEGER = ("QLinearConv", "QuantizeLinear", "DequantizeLinear")
Feeds = list[dict[str, np.ndarray]]


class Reader(CalibrationDataReader):
    """What ONNX Runtime's quantizer reads data from."""

    def __init__(self, feeds: Feeds) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


@pytest.fixture
def feeds(rng: np.random.Generator) -> Feeds:
    return [{"x": rng.standard_normal((2, 8, 8, 8)).astype(np.float32)} for _ in range(6)]


@pytest.fixture
def chain(lab: Lab, rng: np.random.Generator) -> ir.Model:
    weights = {k: (rng.standard_normal((8, 8, 3, 3)) / 8).astype(np.float32) for k in "wvu"}
    biases = {k: rng.standard_normal(8).astype(np.float32) for k in "bde"}
    model = lab.build(CHAIN, **weights, **biases)
    for name, node in zip(("first", "second", "third"), (n for n in model.graph if n.op_type == "Conv"), strict=True):
        node.name = name
    return model


def halves(model: ir.Model, source: Path, kind: str, left: str, lab: Lab, feeds: Feeds) -> ir.Model:
    """The chain with all Convs but ``left`` on integers."""
    if kind == "onnxopt":
        lab.run(StaticQuantize(exclude=(left,)), model.clone(), feeds)
        lab.result.rename(lab.source)
        return load(lab.source)
    made = source.with_name("half.onnx")
    quantize_static(
        source,
        made,
        Reader(feeds),
        quant_format=QuantFormat.QOperator if kind == "QOperator" else QuantFormat.QDQ,
        nodes_to_exclude=[left],
        per_channel=kind != "QDQ S8",
        activation_type=QuantType.QInt8 if kind == "QDQ S8" else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    made.rename(lab.source)
    return load(lab.source)


def kernels(path: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_name("kernels.onnx"))
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(path.with_name("kernels.onnx")).graph.node)


@pytest.mark.parametrize("left", ["first", "second", "third"])
@pytest.mark.parametrize("kind", ["QDQ", "QOperator", "onnxopt"])
def test_the_float_part_is_quantized_and_the_rest_stays(
    kind: str, left: str, chain: ir.Model, lab: Lab, feeds: Feeds, tmp_path: Path
) -> None:
    save(chain, tmp_path / "named.onnx")
    model = halves(chain, tmp_path / "named.onnx", kind, left, lab, feeds)
    before = onnx.load(lab.source)
    result = lab.run(StaticQuantize(), model, feeds)
    assert result.changes == 1
    after = onnx.load(lab.result)
    kept = {n.SerializeToString() for n in before.graph.node if n.op_type in INTEGER}
    assert len(kept - {n.SerializeToString() for n in after.graph.node}) <= 1, "at most a graph input is read anew"
    made = {n.output[0]: n.op_type for n in after.graph.node}
    floats = [n.name for n in after.graph.node if n.op_type == "Conv" and made.get(n.input[1]) != "DequantizeLinear"]
    assert not floats
    found = kernels(lab.result)
    assert found["QLinearConv"] == 3 and found["Conv"] + found["FusedConv"] == 0, found
    assert found["QuantizeLinear"] == 1, f"one grid a value: {found}"
    assert lab.sqnr_db(feeds) > 30


def test_pairs_of_another_type_are_kept_and_converted(chain: ir.Model, lab: Lab, feeds: Feeds, tmp_path: Path) -> None:
    save(chain, tmp_path / "named.onnx")
    model = halves(chain, tmp_path / "named.onnx", "QDQ S8", "second", lab, feeds)
    assert lab.run(StaticQuantize(), model, feeds).changes == 1
    assert lab.sqnr_db(feeds) > 28


def test_a_model_in_part_on_integers_needs_to_be_asked_for(
    chain: ir.Model, lab: Lab, feeds: Feeds, tmp_path: Path
) -> None:
    lab.run(StaticQuantize(exclude=("second",)), chain.clone(), feeds)
    with pytest.raises(ModelError, match="2x Conv"):
        require_float(load(lab.result), "half.onnx")
    require_float(load(lab.result), "half.onnx", requantize=True)
    lab.run(StaticQuantize(), chain.clone(), feeds)
    with pytest.raises(NothingChangedError, match="3x Conv"):
        require_float(load(lab.result), "whole.onnx", requantize=True)
