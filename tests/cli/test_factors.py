"""Convs that become two, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from tests.cli.command_line import latency

ALONE = """
<ir_version: 8, opset_import: ["" : 13]>
alone (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y) {
  y = Conv <pads = [1, 1, 1, 1]> (x, w)
}
"""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model without inner channels, of one Conv with separable filters, and inputs."""
    monkeypatch.setattr("onnxopt.commands.prune.compare_latency", lambda *args, **options: latency("faster"))
    rng = np.random.default_rng(4)
    first, second = rng.standard_normal((3, 8, 3)), rng.standard_normal((8, 3, 3))
    weight = np.einsum("rih,orw->oihw", first, second).astype(np.float32)
    model = parser.parse_model(ALONE)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=rng.standard_normal((40, 8, 12, 12)).astype(np.float32))
    return tmp_path / "m.onnx", tmp_path / "d.npz"


def test_a_model_without_inner_channels_becomes_two_convs(alone, tmp_path, invoke) -> None:
    model, data = alone
    output = tmp_path / "o.onnx"
    outcome = invoke("--json", "prune", model, "-o", output, "--data", data, "--macs", 0.5, "--threads", 1)
    assert outcome.code == 0, outcome
    assert [r["rank"] for r in outcome.document["data"]["ranks"]] == [6]
    made = onnx.load(output)
    assert [n.op_type for n in made.graph.node] == ["Conv", "Conv"]
    x = np.load(data)["x"][:4]
    wanted, given = (ort.InferenceSession(str(p)).run(None, {"x": x})[0] for p in (model, output))
    np.testing.assert_allclose(given, wanted, atol=1e-3 * np.abs(wanted).max())
    stamp = json.loads(next(p.value for p in made.metadata_props if p.key == "onnxopt"))
    assert [rank for _, rank in stamp["recipe"][0]["ranks"]] == [6]


@pytest.mark.parametrize("option", [["--no-factor"], ["--keep", "Conv"]])
def test_convs_that_are_to_stay_stay(alone, tmp_path, invoke, option) -> None:
    model, data = alone
    outcome = invoke("prune", model, "-o", tmp_path / "o.onnx", "--data", data, "--macs", 0.5, *option)
    assert outcome.code == 4 and not (tmp_path / "o.onnx").exists(), outcome


def test_inspect_lists_them(alone, invoke) -> None:
    model, data = alone
    found = invoke("--json", "inspect", model, "--prune", "--data", data).document["data"]
    assert [(f["weights"], f["even_rank"]) for f in found["factors"]] == [("8x8x3x3", 12)]


@pytest.mark.parametrize("method", [["--sparsity", 0.5], ["--nm", "2:4"], ["--drop-blocks", 1]])
@pytest.mark.parametrize("option", [["--importance", "l1"], ["--no-factor"]])
def test_an_option_that_would_not_count_is_refused(alone, tmp_path, refused, method, option) -> None:
    model, data = alone
    command = ["prune", model, "-o", tmp_path / "o.onnx", "--data", data, *method, *option]
    refused(2, command, option[0])
