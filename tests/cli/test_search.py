"""What ``quantize --mode auto`` tries, and what limits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command_line import Outcome
from tests.cli.sample_models import FEATURES, normal, parsed, write

Invoke = Callable[..., Outcome]
EINSUM = f"""<ir_version: 8, opset_import: ["" : 17]> m (float[N, {FEATURES}] x) => (float[N, 32] y) {{
    h = Einsum <equation = "nc,cd->nd"> (x, w)  r = Relu(h)  y = MatMul(r, v) }}"""


def candidates(outcome: Outcome) -> dict[str, dict[str, object]]:
    return {c["name"]: c for c in json.loads(outcome.out)["data"]["candidates"]}


def test_layers_are_rewritten_where_that_puts_more_of_them_on_integers(
    invoke: Invoke, tmp_path: Path, mlp_npz: Path, no_clock: None
) -> None:
    model = write(parsed(EINSUM, {"w": normal(FEATURES, 64), "v": normal(64, 32, seed=1)}), tmp_path / "m.onnx")
    outcome = invoke("--json", "quantize", model, "-o", tmp_path / "q.onnx", "--data", mlp_npz, "--max-drop", 1)
    tried = candidates(outcome)
    assert outcome.code == 0
    assert (tried["static"]["integer_nodes"], tried["static, rewritten"]["integer_nodes"]) == (1, 2)


@pytest.mark.parametrize(
    ("limit", "said"), [(("--max-evals", 1), "--max-evals"), (("--time-limit", 0.001), "--time-limit")]
)
def test_a_spent_budget_leaves_candidates_out_and_says_so(
    invoke: Invoke, tmp_path: Path, mlp_model: Path, mlp_npz: Path, no_clock: None, limit: tuple[object, ...], said: str
) -> None:
    output = tmp_path / "q.onnx"
    outcome = invoke("--json", "quantize", mlp_model, "-o", output, "--data", mlp_npz, "--max-drop", 1, *limit)
    assert outcome.code == 0, outcome
    tried = candidates(outcome)
    assert tried["static"]["outcome"] == "faster"
    assert any(c["outcome"] == "not tried" and said in str(c["reason"]) for c in tried.values()), tried
    assert json.loads(outcome.out)["data"]["evaluations"] == 1


def test_settings_of_an_earlier_model_do_not_outlive_it(
    invoke: Invoke, tmp_path: Path, mlp_model: Path, mlp_npz: Path, no_clock: None
) -> None:
    output = tmp_path / "q.onnx"
    stale = tmp_path / "q.onnx.session.json"
    stale.write_text('{"schema": 1, "provider": "cpu", "disabled_optimizers": ["X"], "session_config": {}}')
    assert invoke("quantize", mlp_model, "-o", output, "--data", mlp_npz, "--max-drop", 1).code == 0
    assert output.exists() and not stale.exists()


def test_damaged_settings_beside_the_input_are_refused(refused: Invoke, mlp_model: Path, mlp_npz: Path) -> None:
    mlp_model.with_name("mlp.onnx.session.json").write_text("{")
    command = ["quantize", mlp_model, "-o", mlp_model.with_name("q.onnx"), "--data", mlp_npz]
    refused(3, command, "session settings", "remove the file")


def test_an_embedding_is_stored_in_int8(invoke: Invoke, tmp_path: Path, no_clock: None) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> m (int64[N, 6] ids) => (float[N, 6, 64] y) {
        e = Gather(table, ids)  y = MatMul(e, w) }"""
    model = write(parsed(text, {"table": normal(4096, 64), "w": normal(64, 64, seed=1)}), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "ids.npz", ids=rng.integers(0, 4096, (40, 6)))
    output = tmp_path / "q.onnx"
    assert invoke("quantize", model, "-o", output, "--data", tmp_path / "ids.npz", "--max-drop", 1).code == 0
    assert output.stat().st_size < 0.3 * model.stat().st_size


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_data_of_one_value_are_refused(refused: Invoke, tmp_path: Path, mlp_model: Path, value: float) -> None:
    np.savez(tmp_path / "flat.npz", x=np.full((40, FEATURES), value, np.float32))
    command = ["quantize", mlp_model, "-o", tmp_path / "q.onnx", "--data", tmp_path / "flat.npz"]
    refused(3, command, "all values of the data are the same", "doctor")


def test_a_folder_in_the_place_of_the_settings_is_found_before_the_search(
    refused: Invoke, tmp_path: Path, mlp_model: Path, mlp_npz: Path
) -> None:
    (tmp_path / "q.onnx.session.json").mkdir()
    refused(3, ["quantize", mlp_model, "-o", tmp_path / "q.onnx", "--data", mlp_npz], "q.onnx.session.json")
