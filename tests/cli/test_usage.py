"""Wrong usage: exit 2, and the message names what comes nearest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from onnxopt.cli.main import COMMANDS
from tests.cli.sample_models import mlp_data

Refused = Callable[..., object]


def test_an_unknown_command(refused: Refused) -> None:
    refused(2, ["quantise", "m.onnx"], "quantise", "'quantize'")


def test_an_unknown_option(mlp_model: Path, refused: Refused) -> None:
    refused(2, ["quantize", mlp_model, "--ouput", "x.onnx"], "--ouput", "--output", "onnxopt quantize --help")


def test_a_missing_model(refused: Refused) -> None:
    refused(2, ["quantize"], "MODEL")
    refused(2, ["optimize"], "model")
    refused(2, ["bench"], "MODELS")
    refused(2, ["compare", "a.onnx"], "CANDIDATE")


def test_a_missing_output(mlp_model: Path, refused: Refused) -> None:
    refused(2, ["quantize", mlp_model], "-o")
    refused(2, ["optimize", mlp_model], "-o")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--mode", "statik", ("statik", "static", "dynamic")),
        ("--max-drop", "-1", ("-1",)),
        ("--max-drop", "much", ("much",)),
        ("--max-drop", "nan", ("nan",)),
        ("--samples", "0", ("0",)),
        ("--threads", "0", ("0",)),
        ("--seed", "-1", ("-1",)),
        ("--inconclusive", "maybe", ("maybe", "pass", "fail")),
        ("--metric", "top2", ("top2", "'top1'")),
        ("--output-name", "z", ("'z'", "'y'")),
        ("--exclude", "con_1", ("con_1", "matches no node")),
        ("--exclude", "Matmul", ("Matmul", "did you mean 'MatMul'")),
        ("--labels", "", ()),
    ],
)
def test_a_wrong_value(
    option: str, value: str, words: tuple[str, ...], mlp_model: Path, mlp_npz: Path, tmp_path: Path, refused: Refused
) -> None:
    code = 3 if option == "--labels" else 2
    refused(code, ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", mlp_npz, option, value], *words)


def test_a_metric_that_needs_labels(mlp_model: Path, mlp_npz: Path, refused: Refused) -> None:
    refused(2, ["compare", mlp_model, mlp_model, "--data", mlp_npz, "--metric", "top1"], "top1", "labels")


def test_an_unknown_pass(mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = ["optimize", mlp_model, "-o", tmp_path / "o.onnx", "--passes", "fold-constant,remove-unused"]
    refused(2, arguments, "'fold-constant'", "did you mean 'fold-constants'")


def test_an_empty_list_of_passes(mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    refused(2, ["optimize", mlp_model, "-o", tmp_path / "o.onnx", "--passes", " , "], "--passes")


def test_an_unknown_preprocess_key(cnn_model: Path, tmp_path: Path, refused: Refused) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "p.toml").write_text("resise = 8\n")
    arguments = ["quantize", cnn_model, "-o", tmp_path / "o.onnx", "--data", tmp_path / "images"]
    refused(2, [*arguments, "--preprocess", tmp_path / "p.toml"], "resise", "resize")


def test_preprocessing_is_not_for_arrays(mlp_model: Path, mlp_npz: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "p.toml").write_text("layout = 'NCHW'\n")
    arguments = ["compare", mlp_model, mlp_model, "--data", mlp_npz, "--preprocess", tmp_path / "p.toml"]
    refused(2, arguments, "images only")


def test_exclude_is_checked_against_the_model_as_the_user_knows_it(
    cnn_model: Path, cnn_npz: Path, tmp_path: Path, invoke: Callable[..., object], no_clock: None
) -> None:
    """A clean-up folds the BatchNormalization away; naming it is no mistake of the user."""
    arguments = ["quantize", cnn_model, "-o", tmp_path / "o.onnx", "--data", cnn_npz, "--max-drop", 1]
    assert invoke(*arguments, "--exclude", "BatchNormalization").code == 0  # type: ignore[attr-defined]


def test_a_wrong_pattern_is_found_before_the_data_are_read(mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = ["quantize", mlp_model, "-o", tmp_path / "o.onnx", "--data", tmp_path / "missing.npz"]
    refused(2, [*arguments, "--exclude", "nothing_like_it"], "matches no node")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_goes_to_stdout(command: tuple[str, ...], invoke: Callable[..., object]) -> None:
    outcome = invoke(*command, "--help")
    assert outcome.code == 0 and outcome.err == "" and "Usage: onnxopt" in outcome.out  # type: ignore[attr-defined]


def test_nothing_asked_is_answered_with_help_and_exit_2(invoke: Callable[..., object]) -> None:
    outcome = invoke()
    assert outcome.code == 2 and outcome.out == "" and "Commands:" in outcome.err  # type: ignore[attr-defined]


def test_data_cannot_be_empty_text(mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    mlp_data(tmp_path / "a.npz")
    refused(2, ["compare", mlp_model, mlp_model, "--data", ""], "--data")


def test_an_unknown_output_of_the_model_names_the_option_that_chose_it(
    mlp_model: Path, mlp_npz: Path, refused: Refused
) -> None:
    refused(2, ["compare", mlp_model, mlp_model, "--data", mlp_npz, "--output-name", "yy"], "yy", "--output-name")
