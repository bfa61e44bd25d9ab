"""The fixture ``onnxopt_gate`` in pytest runs of their own, with real gates whose limits need no clock."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from tests.cli.command_line import REPOSITORY
from tests.cli.sample_models import FEATURES, mlp, normal, write

pytest_plugins = ["pytester"]

NO_CLOCK = "data='data.npz', latency_ratio=None"
HEAVY = {"onnx", "numpy", "onnxruntime", "scipy", "rich", "click", "onnxopt.commands", "onnxopt.report"}


@pytest.fixture
def models(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a neighbour that answers a bit differently, and data; warnings are errors there."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # else an installed onnxopt would bring the plugin too
    write(mlp(), pytester.path / "ref.onnx")
    near = mlp()
    weight = near.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
    near.graph.initializer[1].raw_data = (
        numpy_helper.to_array(near.graph.initializer[1]) + normal(32, 4) / 1e3
    ).tobytes()
    write(near, pytester.path / "near.onnx")
    np.savez(pytester.path / "data.npz", x=normal(20, FEATURES))
    return pytester.path


def run(pytester: pytest.Pytester, call: str, *arguments: str) -> pytest.RunResult:
    """Runs one test that makes ``call`` to the fixture."""
    pytester.makepyfile(f"def test_it(onnxopt_gate):\n    report = onnxopt_gate({call})\n    print(report.command)\n")
    return pytester.runpytest_subprocess("-p", "onnxopt.pytest_plugin", "-W", "error", "-rs", "-s", *arguments)


def test_limits_kept(pytester: pytest.Pytester, models: Path) -> None:
    result = run(pytester, f"'ref.onnx', 'ref.onnx', {NO_CLOCK}, size_mb=1, drop=0.01", "--junit-xml=all.xml")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*gate"])
    found = {p.attrib["name"]: p.attrib["value"] for p in ET.parse(models / "all.xml").iter("property")}
    assert float(found["onnxopt size"]) == pytest.approx((models / "ref.onnx").stat().st_size / 1e6)
    assert len(found) == 2


def test_a_limit_broken(pytester: pytest.Pytester, models: Path) -> None:
    result = run(pytester, f"'near.onnx', 'ref.onnx', {NO_CLOCK}, size_mb=0.001, sqnr_db=10")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["near.onnx: * MB on disk*", "check *measured *limit *result", "size *0.001 MB *FAIL"])
    result.stdout.fnmatch_lines(["SQNR *10 dB *PASS"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


@pytest.mark.parametrize(
    ("inconclusive", "outcome"), [("", "skipped"), ("skip", "skipped"), ("pass", "passed"), ("fail", "failed")]
)
def test_undecided(inconclusive: str, outcome: str, pytester: pytest.Pytester, models: Path) -> None:
    option = f", inconclusive={inconclusive!r}" if inconclusive else ""
    result = run(pytester, f"'near.onnx', 'ref.onnx', {NO_CLOCK}, drop=0.01{option}")
    result.assert_outcomes(**{outcome: 1})
    if outcome != "passed":
        result.stdout.fnmatch_lines(["*more than 20 samples are needed to decide*"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (f"'none.onnx', 'ref.onnx', {NO_CLOCK}", ["*ModelError: the model cannot be read*", "*where: none.onnx*"]),
        (f"'ref.onnx', 'data.npz', {NO_CLOCK}", ["*ModelError: *not an ONNX file*", "*where: data.npz*"]),
        ("'ref.onnx', 'ref.onnx', data='none.npz'", ["*DataError: *", "*where: *none.npz*"]),
        ("'ref.onnx', 'ref.onnx', size_mb=-1", ["*UsageError: -1 is no limit*", "*where: *"]),
        (
            "'ref.onnx', 'ref.onnx', inconclusive='fial'",
            ["*UsageError: unknown outcome 'fial'", "*where: inconclusive=*"],
        ),
    ],
)
def test_bad_input(call: str, words: list[str], pytester: pytest.Pytester, models: Path) -> None:
    result = run(pytester, call)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*onnxopt_gate(*", *words, "*what to do: *"])
    assert "Error: " in result.stdout.str() and "commands/gate.py" not in result.stdout.str()


def test_a_source_where_the_data_need_more_options(pytester: pytest.Pytester, models: Path) -> None:
    pytester.makepyfile(
        "import onnxopt\n"
        "def test_it(onnxopt_gate):\n"
        "    data = onnxopt.Source('data.npz', samples=5)\n"
        "    report = onnxopt_gate('near.onnx', 'ref.onnx', data=data, latency_ratio=None, sqnr_db=5)\n"
        "    assert report.data['data']['samples'] == 5\n"
    )
    pytester.runpytest_subprocess("-p", "onnxopt.pytest_plugin", "-W", "error").assert_outcomes(passed=1)


def test_loading_the_plugin_is_light() -> None:
    code = f"import sys, onnxopt.pytest_plugin; print(sorted({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]" and out.stderr == ""
