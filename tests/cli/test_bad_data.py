"""Data that do not fit the model, and providers that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from onnxopt.run.target import PROVIDERS
from tests.cli.sample_models import CLASSES, FEATURES, mlp_data, normal

Refused = Callable[..., object]


def with_nan() -> np.ndarray:
    x = normal(12, FEATURES)
    x[3, 2] = np.nan
    return x


def with_infinity() -> np.ndarray:
    x = normal(12, FEATURES)
    x[0, 0] = np.inf
    return x


BAD = {
    "wrong name": ({"images": normal(12, FEATURES)}, ("'x'", "'images'")),
    "wrong dtype": ({"x": np.zeros((12, FEATURES), np.int64)}, ("float32", "int64", "normalise")),
    "strings": ({"x": np.full((12, FEATURES), "a")}, ("expected float32",)),
    "complex": ({"x": np.zeros((12, FEATURES), np.complex64)}, ("complex64",)),
    "objects": ({"x": np.array([None] * 12, dtype=object)}, ("object",)),
    "wrong rank": ({"x": normal(12, 4, 2, 2)}, ("'x'", "expected")),
    "wrong size": ({"x": normal(12, FEATURES + 1)}, ("'x'", "16", "17")),
    "scalar": ({"x": np.float32(1)}, ("'x'",)),
    "no samples": ({"x": normal(0, FEATURES)}, ("empty",)),
    "an array too many": ({"x": normal(12, FEATURES), "extra": normal(12)}, ("'extra'", "not an input")),
    "NaN": ({"x": with_nan()}, ("NaN", "(0, 2)")),
    "infinity": ({"x": with_infinity()}, ("infinity",)),
    "too few labels": ({"x": normal(12, FEATURES), "labels": np.zeros(5, np.int64)}, ("labels", "(5,)", "12")),
    "labels beyond the classes": (
        {"x": normal(12, FEATURES), "labels": np.full(12, CLASSES + 3)},
        ("label", str(CLASSES + 3)),
    ),
    "text labels": ({"x": normal(12, FEATURES), "labels": np.full(12, "cat")}, ("label",)),
    "NaN labels": ({"x": normal(12, FEATURES), "labels": np.full(12, np.nan)}, ("label",)),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["quantize", "compare"])
def test_data_that_do_not_fit(name: str, command: str, mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    arrays, words = BAD[name]
    np.savez(tmp_path / "data.npz", **arrays)
    extra = [mlp_model] if command == "compare" else ["-o", tmp_path / "out.onnx"]
    refused(3, [command, mlp_model, *extra, "--data", tmp_path / "data.npz"], *words)


def damaged(path: Path) -> None:
    payload = mlp_data(path).read_bytes()
    path.write_bytes(payload[: len(payload) // 2])


FILES: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "missing": ("no.npz", lambda path: None, ("no such file", "did you mean")),
    "truncated": ("data.npz", damaged, ("data.npz",)),
    "text": ("data.npz", lambda path: path.write_text("hello"), ("data.npz",)),
    "empty": ("data.npz", lambda path: path.touch(), ("data.npz",)),
    "unknown kind": ("data.pkl", lambda path: path.touch(), (".pkl", ".npz")),
    "empty folder": ("data", lambda path: path.mkdir(), ("no samples",)),
    "empty npy": ("data.npy", lambda path: path.touch(), ("data.npy",)),
    "empty table": ("data.csv", lambda path: path.touch(), ("data.csv",)),
    "not a table": ("data.csv", lambda path: path.write_bytes(b"\xff\xfe\0\0"), ("data.csv",)),
    "link to nowhere": ("data.npz", lambda path: path.symlink_to("nowhere.npz"), ("data.npz",)),
}


@pytest.mark.parametrize("name", FILES)
def test_data_files_that_cannot_be_read(name: str, mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    file, make, words = FILES[name]
    mlp_data(tmp_path / "not.npz")
    make(tmp_path / file)
    refused(3, ["quantize", mlp_model, "-o", tmp_path / "out.onnx", "--data", tmp_path / file], *words)


@pytest.mark.parametrize(
    ("function", "word"),
    [("no_such_module_at_all:feeds", "no_such_module_at_all"), ("json:no_such_function", "no_such_function")],
)
def test_data_functions_that_do_not_exist(function: str, word: str, mlp_model: Path, refused: Refused) -> None:
    refused(3, ["compare", mlp_model, mlp_model, "--data", function], word)


def test_a_fixed_dimension_names_what_was_expected(cnn_model: Path, tmp_path: Path, refused: Refused) -> None:
    np.savez(tmp_path / "data.npz", x=normal(12, 8, 8, 3))
    arguments = ["quantize", cnn_model, "-o", tmp_path / "out.onnx", "--data", tmp_path / "data.npz"]
    refused(3, arguments, "(N, 3, 8, 8)", "NHWC", "transpose")


def test_static_quantization_without_data_says_so(mlp_model: Path, tmp_path: Path, refused: Refused) -> None:
    refused(3, ["quantize", mlp_model, "-o", tmp_path / "out.onnx", "--mode", "static"], "needs data", "--data")


def test_an_unknown_provider_names_the_nearest(mlp_model: Path, refused: Refused) -> None:
    refused(2, ["bench", mlp_model, "--provider", "cudda"], "cudda", "did you mean 'cuda'")


def test_a_provider_that_is_not_installed_names_its_package(mlp_model: Path, refused: Refused) -> None:
    absent = next(p for p in PROVIDERS if p.name not in ort.get_available_providers())
    refused(3, ["bench", mlp_model, "--provider", absent.short], absent.name, absent.package)
