"""The simulation of CPUs without VNNI against what ONNX Runtime computes on one (``benchmarks.saturation_oracle``)."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxopt.core.io import load, save
from onnxopt.passes.base import Context
from onnxopt.quantization.portability.audit import audit
from onnxopt.quantization.portability.pairs import as_matrix, excess, risky, worst_sum
from onnxopt.quantization.portability.simulate import simulate
from onnxopt.quantization.portability.weights import as_unsigned, narrow_scale
from tests.quantization.saturation_cases import CASES, layer

GOLDEN = np.load(Path(__file__).parent / "goldens" / "haswell.npz")
MADE = [make() for make in CASES]


def run(path, feeds):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def exact(model, folder):
    """The same model on kernels that never saturate, on any CPU."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    path = folder / "exact.onnx"
    onnx.save(model, path)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", MADE, ids=lambda c: c.name)
def test_simulation_equals_a_cpu_without_vnni(case, tmp_path):
    onnx.save(case.model, tmp_path / "model.onnx")
    found = simulate(tmp_path / "model.onnx", case.feeds, tmp_path)
    assert found.notes == ()
    np.testing.assert_array_equal(run(found.path, case.feeds), GOLDEN[case.name])
    differs = not np.array_equal(exact(case.model, tmp_path).run(None, case.feeds)[0], GOLDEN[case.name])
    assert differs == case.saturates


def test_pairs_saturate_as_computed_by_hand():
    data = np.array([[255, 255, 200, 200]], np.uint8)
    codes = np.array([[127, -128, 100], [127, -128, 29], [100, 1, 64], [29, 127, 64]], np.int8)
    # 255 (127 + 127) = 64770; 255 (-128 - 128) = -65280; 255 (100 + 29) = 32895; all others fit into 16 bits.
    np.testing.assert_array_equal(excess(data, codes), [[32767 - 64770, 65280 - 32768, 32767 - 32895]])
    found = risky(codes)
    assert [*zip(found.first, found.channel, strict=True)] == [(0, 0), (2, 0), (0, 1), (0, 2)]
    assert found.total == 6


def test_pairs_of_different_signs_and_a_last_row_alone_never_saturate():
    codes = np.array([[127, -128], [-128, 127], [127, -128]], np.int8)
    assert len(risky(codes).first) == 0
    assert not excess(np.full((1, 3), 255, np.uint8), codes).any()


def test_rows_of_a_conv_run_over_positions_then_channels():
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = as_matrix(weight, 0)
    np.testing.assert_array_equal(matrix[:4, 0], [weight[0, 0, 0, 0], weight[0, 1, 0, 0], weight[0, 2, 0, 0], 1])
    np.testing.assert_array_equal(as_matrix(weight[:, :, 0, 0], 0), weight[:, :, 0, 0].T)


def test_narrow_scales_leave_safe_channels_alone_and_make_the_others_safe():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 8, 3, 3)).astype(np.float32)
    weight[0] = 0
    weight[1, :, :, :] *= np.where(np.arange(8) % 2, 0.001, 1)[:, None, None]
    scale = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127)
    found = narrow_scale(weight, 0, scale)
    assert (found >= scale).all()
    assert found[0] == scale[0]
    assert found[1] == scale[1]
    assert (found > scale).sum() > 20
    assert (found <= 2.01 * scale).all(), "seven bits are always enough"
    with np.errstate(invalid="ignore"):
        codes = np.nan_to_num(np.rint(weight / found[:, None, None, None])).astype(np.int8)
    assert not len(risky(as_matrix(codes, 0)).first)
    assert worst_sum(as_matrix(codes.astype(int), 0)).max() > 120, "no more is given up than needed"


def test_unsigned_codes_stand_for_the_same_numbers():
    codes = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(as_unsigned(codes).astype(int) - 128, codes)


def test_an_audit_counts_what_saturates(tmp_path):
    case = layer("gemm", "Gemm", (40, 18), (5, 40), spread=50)
    onnx.save(case.model, tmp_path / "model.onnx")
    found = audit(tmp_path / "model.onnx", [case.feeds] * 3, Context(tmp_path))
    data = np.clip(np.rint(case.feeds["x"] / np.float32(0.02)) + 10, 0, 255).astype(np.uint8)
    codes = onnx.numpy_helper.to_array(next(t for t in case.model.graph.initializer if t.name == "w"))
    wide, weights = data.astype(int), codes.astype(int)
    sums = wide[:, 0::2, None] * weights[0::2] + wide[:, 1::2, None] * weights[1::2]
    (risk,) = found.risks
    assert (found.layers, found.samples, risk.weight, risk.op_type) == (1, 3, "w", "QGemm")
    assert risk.saturated == pytest.approx(np.mean((sums > 32767) | (sums < -32768)))
    assert risk.possible == pytest.approx(len(risky(codes).first) / (20 * 18))
    assert 10 < risk.sqnr_db < 40


def test_a_float_model_has_no_layer_at_risk(tmp_path):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,3] y) <float[4,3] w> {y = MatMul(x, w)}'
    )
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    onnx.save(proto, tmp_path / "model.onnx")
    found = audit(tmp_path / "model.onnx", [{"x": np.ones((1, 4), np.float32)}], Context(tmp_path))
    assert (found.layers, found.risks) == (0, ())


def test_padding_that_follows_from_the_input_is_named_not_guessed(tmp_path):
    case = layer("same", "Conv", (16, 16, 3, 3), (1, 16, 7, 7), auto_pad="SAME_UPPER")
    onnx.save(case.model, tmp_path / "model.onnx")
    found = simulate(tmp_path / "model.onnx", case.feeds, tmp_path)
    assert [note.verdict for note in found.notes] == ["not simulated"]


def test_the_input_model_stays_as_it_is(tmp_path):
    case = MADE[0]
    onnx.save(case.model, tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx").read_bytes()
    simulate(tmp_path / "model.onnx", case.feeds, tmp_path, name="other")
    assert (tmp_path / "model.onnx").read_bytes() == before
    save(load(tmp_path / "other-without-vnni.onnx"), tmp_path / "again.onnx")
