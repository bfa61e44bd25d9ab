"""What goes to stdout and stderr: one JSON document, no escape codes, broken pipes, a fast ``--help``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxopt.core.report import Report
from tests.cli.command_line import Outcome, environment, latency
from tests.cli.sample_models import CUSTOM, mlp, parsed, write

Invoke = Callable[..., Outcome]
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "scipy", "rich", "PIL")


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["inspect", "mlp.onnx"]),
        (0, ["compare", "mlp.onnx", "mlp.onnx", "--max-drop", "0"]),
        (0, ["optimize", "--list"]),
        (1, ["compare", "mlp.onnx", "negated.onnx", "--max-drop", "0.1"]),
        (2, ["inspect"]),
        (2, ["inspekt"]),
        (2, ["inspect", "mlp.onnx", "--no-such-option"]),
        (2, ["inspect", "mlp.onnx", "--provider", "nothing"]),
        (2, ["quantize", "mlp.onnx", "-o", "out.onnx", "--exclude", "nothing"]),
        (3, ["inspect", "missing.onnx"]),
        (3, ["inspect", "custom.onnx"]),
        (3, ["compare", "mlp.onnx", "mlp.onnx", "--data", "missing.npz"]),
        (3, ["optimize", "mlp.onnx", "-o", "nowhere/out.onnx"]),
        (4, ["optimize", "mlp.onnx", "-o", "out.onnx"]),
        (4, ["quantize", "relu.onnx", "-o", "out.onnx"]),
    ],
)
def test_json_is_one_document_with_the_exit_code(
    place: str,
    code: int,
    arguments: list[str],
    mlp_model: Path,
    tmp_path: Path,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(parsed(CUSTOM), tmp_path / "custom.onnx")
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 16] x) => (float[N, 16] y) { y = Relu(x) }'
    write(parsed(text), tmp_path / "relu.onnx")
    negated = mlp()
    negated.graph.node[2].output[0] = "z"
    negated.graph.node.add(op_type="Neg", input=["z"], output=["y"])
    write(negated, tmp_path / "negated.onnx")
    outcome = invoke("--json", *arguments) if place == "before" else invoke(*arguments, "--json")
    assert outcome.code == code == outcome.document["exit_code"], outcome
    if code in (2, 3):
        assert set(outcome.document["error"]) == {"what", "where", "fix"}
    else:
        assert outcome.err == ""
        assert Report.from_json(outcome.out).exit_code == code


@pytest.mark.parametrize("choice", [("pass", 0), ("fail", 1)])
def test_json_gives_the_exit_code_that_inconclusive_asks_for(
    choice: tuple[str, int], mlp_model: Path, mlp_npz: Path, tmp_path: Path, invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        "onnxopt.quantization.search.candidates.compare_latency", lambda *a, **o: latency("inconclusive")
    )
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, "--max-drop", 1]
    assert invoke(*arguments).code == 5
    outcome = invoke("--json", *arguments, "--inconclusive", choice[0])
    assert outcome.code == choice[1] == outcome.document["exit_code"]
    assert (tmp_path / "o.onnx").exists() == (choice[0] == "pass")


def test_quiet_prints_the_verdict_only(mlp_model: Path, invoke: Invoke) -> None:
    outcome = invoke("-q", "compare", mlp_model, mlp_model)
    assert outcome.code == 0 and outcome.err == "" and len(outcome.out.splitlines()) == 1
    assert outcome.out.startswith("PASS ")


@pytest.mark.parametrize("arguments", [("inspect",), ("compare", "mlp.onnx"), ("optimize", "-o", "out.onnx")])
def test_pipes_get_no_escape_codes(arguments: tuple[str, ...], mlp_model: Path, shell: Invoke, tmp_path: Path) -> None:
    command, *rest = arguments
    for variables in ({}, {"NO_COLOR": "1"}, {"TERM": "xterm-256color", "COLORTERM": "truecolor"}):
        outcome = shell(command, mlp_model, *rest, before=f"cd '{tmp_path}';", **variables)
        assert outcome.code in (0, 4), outcome
        assert "\x1b" not in outcome.out + outcome.err


def test_names_in_a_model_do_not_steer_the_terminal(tmp_path: Path, invoke: Invoke) -> None:
    model = mlp()
    model.graph.node[0].name = "\x1b[2J\x9b31m\r[bold]clear"
    model.graph.node[0].input[1] = "x2"
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "x2"
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 16
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 32
    outcome = invoke("-v", "inspect", write(model, tmp_path / "m.onnx"))
    assert outcome.code == 0, outcome
    assert "\x1b" not in outcome.out and "\x9b" not in outcome.out and "\r" not in outcome.out
    assert "\\x1b[2J\\x9b31m\\x0d[bold]clear" in outcome.out
    error = invoke("inspect", tmp_path / "\x1b[2Jm.onnx")
    assert error.code == 3 and "\x1b" not in error.err


def test_an_output_encoding_that_lacks_letters_is_no_failure(tmp_path: Path, shell: Invoke) -> None:
    model = write(mlp(), tmp_path / "größe.onnx")
    for arguments in (("inspect",), ("--json", "inspect")):
        outcome = shell(*arguments, model, PYTHONIOENCODING="ascii")
        assert outcome.code == 0 and "gr\\xf6" in outcome.out.replace("\\u00f6", "\\xf6"), outcome
    missing = shell("inspect", tmp_path / "größer.onnx", PYTHONIOENCODING="ascii")
    assert missing.code == 3 and "Traceback" not in missing.err


@pytest.mark.parametrize("arguments", [("--help",), ("inspect", "MODEL"), ("--json", "inspect", "MODEL")])
def test_a_reader_that_leaves_is_no_error(arguments: tuple[str, ...], mlp_model: Path, shell: Invoke) -> None:
    given = [str(mlp_model) if a == "MODEL" else a for a in arguments]
    outcome = shell(*given, after="| head -c 1 > /dev/null")
    assert outcome.code in (0, 141) and outcome.err == "", outcome
    closed = shell(*given, after="| true")
    assert closed.code in (0, 141) and closed.err == "", closed


def test_a_full_device_behind_stdout_is_explained(mlp_model: Path, shell: Invoke) -> None:
    for arguments in (("inspect", mlp_model), ("--json", "inspect", mlp_model)):
        outcome = shell(*arguments, after="> /dev/full")
        assert outcome.code == 3 and "No space left" in outcome.err and "Traceback" not in outcome.err, outcome


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, json\nfrom onnxopt.cli.main import run\ncode = run(['--help'])\n"
        f"print(json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=True)
    assert json.loads(done.stderr) == [0, []]
    assert "quantize" in done.stdout


def test_no_command_imports_torch(mlp_model: Path) -> None:
    script = (
        "import sys\nfrom onnxopt.cli.main import run\n"
        "code = run(['inspect', sys.argv[1]])\nassert 'torch' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(mlp_model)], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_version(shell: Invoke) -> None:
    from onnxopt import __version__

    assert shell("--version").out == f"onnxopt, version {__version__}\n"


def test_a_defect_is_reported_without_a_traceback(
    mlp_model: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("onnxopt.commands.inspect.cost", broken)
    outcome = invoke("--json", "inspect", mlp_model)
    assert outcome.code == 3 and "RuntimeError: boom" in outcome.document["error"]["what"]
    assert "-vv" in outcome.err and "Traceback" not in outcome.err
    with pytest.raises(RuntimeError, match="boom"):
        invoke("-vv", "inspect", mlp_model)
