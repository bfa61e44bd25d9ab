"""The names that ``import onnxopt`` promises, and what importing it costs."""

import subprocess
import sys

import onnxopt

NAMES = {
    "Average",
    "Cascade",
    "Limits",
    "Model",
    "OnnxoptError",
    "Report",
    "Serial",
    "Soup",
    "Source",
    "Stack",
    "Target",
    "Vote",
    "Weighted",
    "bench",
    "compare",
    "demo",
    "distill",
    "doctor",
    "export",
    "finetune",
    "gate",
    "inspect",
    "load",
    "load_session",
    "merge",
    "optimize",
    "prune",
    "prune_and_quantize",
    "quantize",
    "save",
}


def test_names_are_there_and_callable():
    assert set(onnxopt.__all__) == NAMES
    for name in NAMES:
        assert callable(getattr(onnxopt, name)), name


def test_every_command_is_a_function_too():
    from onnxopt.cli.main import COMMANDS

    assert set(COMMANDS) <= NAMES


def test_names_stay_functions_after_their_packages_are_imported():
    code = (
        "import onnxopt; onnxopt.quantize; onnxopt.bench; import onnxopt.commands.quantize;"
        "assert callable(onnxopt.quantize) and callable(onnxopt.bench) and callable(onnxopt.compare)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_is_light():
    code = "import sys, onnxopt; print(sorted({'onnx', 'onnxruntime', 'numpy', 'torch', 'scipy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"
