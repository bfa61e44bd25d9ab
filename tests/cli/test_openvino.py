"""OpenVINO for real, on the CPU: ``make test-openvino``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

from onnxopt.run.target import allowed_cores
from tests.cli.accelerator_cases import MNIST, hardmax, needs, without_library
from tests.cli.command_line import REPOSITORY, Outcome, assert_explained, environment
from tests.cli.sample_models import write

pytestmark = needs("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino (make test-openvino)")

LIBRARIES = (r"libonnxruntime_providers_openvino\.so", r"libopenvino\.so\.\d+")
"""The provider itself, and what it is linked with."""
TEST = MNIST / "test.npz"
COUNT = """
import os, sys
from pathlib import Path
import numpy as np
from onnxopt.run.session import open_session
from onnxopt.run.target import Target
session = open_session(Path(sys.argv[1]), Target("openvino", threads=int(sys.argv[2])))
data = np.load(sys.argv[3])
session.run({name: data[name][:64] for name in session.inputs})
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.parametrize("name", ["openvino", "OpenVINO", "OpenVINOExecutionProvider"])
def test_bench_measures_on_it(invoke: Callable[..., Outcome], cnn_model: Path, name: str) -> None:
    outcome = invoke("--json", "bench", cnn_model, "--provider", name, "--threads", 1)
    assert outcome.code == 0, outcome
    assert outcome.document["data"]["environment"]["provider"] == "OpenVINOExecutionProvider"
    assert not [n for n in outcome.document["notes"] if n["verdict"] == "fallback"]


def test_the_classifier_is_measured_quantized_and_compared_on_it(
    invoke: Callable[..., Outcome], tmp_path: Path
) -> None:
    model, small = MNIST / "mnist_cnn.onnx", tmp_path / "int8.onnx"
    on_it = ["--provider", "openvino", "--threads", 1]
    benched = invoke("bench", model, "--data", TEST, *on_it)
    assert benched.code == 0, benched
    data = ["--data", MNIST / "calibration.npz", "--eval-data", TEST]
    made = invoke("--json", "quantize", model, "-o", small, *data, "--keep-failing", *on_it)
    assert made.code in (0, 1, 5), made
    assert small.exists()
    compared = invoke("--json", "compare", model, small, "--data", TEST, "--max-drop", 0.02, *on_it)
    assert compared.code == 0, compared
    assert compared.document["data"]["comparison"]["candidate_score"] > 0.95


def test_a_node_that_it_declines_is_refused(refused: Callable[..., Outcome], tmp_path: Path) -> None:
    path = write(hardmax(), tmp_path / "m.onnx")
    for command in (["bench", path], ["compare", path, path], ["optimize", path, "-o", tmp_path / "o.onnx"]):
        refused(3, [*command, "--provider", "openvino"], "Hardmax", "CPUExecutionProvider", "--allow-fallback")


@pytest.mark.parametrize("command", ["bench", "compare"])
def test_with_leave_the_report_says_what_the_fallback_costs(
    invoke: Callable[..., Outcome], tmp_path: Path, command: str
) -> None:
    path = write(hardmax(), tmp_path / "m.onnx")
    models = [path] if command == "bench" else [path, path]
    outcome = invoke("--json", command, *models, "--provider", "openvino", "--threads", 1, "--allow-fallback")
    assert outcome.code == 0, outcome
    note = next(n for n in outcome.document["notes"] if n["verdict"] == "fallback")
    assert "CPUExecutionProvider" in note["reason"]
    assert "% of the node time" in note["reason"]
    found = next(iter(outcome.document["data"]["fallback"].values()))
    assert found["nodes"]["CPUExecutionProvider"] >= 1
    assert 0 < found["time_share"] < 1


def test_doctor_names_the_nodes_that_fall_back(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = invoke("--json", "doctor", write(hardmax(), tmp_path / "m.onnx"))
    assert outcome.code == 0, outcome
    row = next(row for row in outcome.document["data"]["model"] if row["provider"] == "openvino")
    assert row["runs"]
    assert any("Hardmax 'unusual'" in node for node in row["fallback"])


@pytest.mark.skipif(not sys.platform.startswith("linux") or allowed_cores() < 2, reason="needs Linux and two cores")
def test_its_threads_follow_the_target() -> None:
    command = [sys.executable, "-c", COUNT, str(MNIST / "mnist_cnn.onnx")]
    one, two = (int(subprocess.check_output([*command, str(n), str(TEST)], env=environment())) for n in (1, 2))
    assert two > one + 1, "one more in ONNX Runtime's own pool, and in OpenVINO's"


@pytest.mark.parametrize("missing", LIBRARIES)
def test_a_missing_library_is_named(
    shell: Callable[..., Outcome], cnn_model: Path, tmp_path: Path, missing: str
) -> None:
    name = next(p.name for p in (Path(ort.__file__).parent / "capi").iterdir() if re.fullmatch(missing, p.name))
    copy = without_library(tmp_path / "copy", name)
    path = f"{copy}:{REPOSITORY}"
    outcome = shell("bench", cnn_model, "--provider", "openvino", PYTHONPATH=path)
    assert_explained(outcome, 3, "OpenVINOExecutionProvider", name, "cannot open shared object file")
    allowed = shell(
        "--json", "bench", cnn_model, "--provider", "openvino", "--threads", 1, "--allow-fallback", PYTHONPATH=path
    )
    assert allowed.code == 0, allowed
    found = allowed.document["data"]["fallback"]["cnn.onnx"]
    assert found["time_share"] == 1
    assert name in found["declined"]
    examined = shell("doctor", PYTHONPATH=path)
    assert examined.code == 0, examined
    assert name in examined.out
