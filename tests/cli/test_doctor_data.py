"""``doctor M.onnx --data D`` on the shipped model and on small ones: right data pass, wrong ones are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.command_line import REPOSITORY, Outcome
from tests.cli.sample_models import FEATURES, cnn_weights, mlp_data, normal, parsed, write

MNIST = REPOSITORY / "calibration_data" / "mnist"
MODEL = MNIST / "mnist_cnn.onnx"
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
STORED = """
<ir_version: 8, opset_import: ["" : 17]>
stored (float[N, 3, 16, 16] x) => (float[N, 4] y) {
  c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w)
  n = BatchNormalization(c, s, t, mean, var)
  r = Relu(n)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  y = Gemm<transB = 1>(f, w2, b2)
}
"""


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return np.load(MNIST / "calibration.npz")["image"][:96]


@pytest.fixture
def examine(invoke: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Outcome]:
    """The report on an array that is fed to the one input of a model."""

    def call(array: np.ndarray, model: Path = MODEL, name: str = "image", *options: object) -> Outcome:
        np.savez(tmp_path / "d.npz", **{name: array.astype(np.float32)})
        return invoke("--json", "doctor", model, "--data", tmp_path / "d.npz", "--threads", 1, *options)

    return call


def photographs(count: int = 32, seed: int = 0) -> np.ndarray:
    """Colour fields, reddish as photographs are, ``(count, 3, 16, 16)`` in 0..1."""
    rng = np.random.default_rng(seed)
    grey = rng.uniform(0, 1, (count, 1, 16, 16))
    tint = np.array([1.0, 0.7, 0.35]).reshape(1, 3, 1, 1)
    return np.clip(grey * tint + rng.uniform(0, 0.1, (count, 3, 16, 16)), 0, 1).astype(np.float32)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A model whose BatchNormalization holds the statistics of standardised photographs."""
    weights = cnn_weights()
    del weights["b1"]
    weights["w"] = weights.pop("w1")
    patches = np.lib.stride_tricks.sliding_window_view(
        np.pad((photographs(64, seed=1) - MEAN) / STD, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3)
    )
    responses = np.einsum("nchwij,ocij->nohw", patches, weights["w"])
    weights |= {"mean": responses.mean(axis=(0, 2, 3)), "var": responses.var(axis=(0, 2, 3))}
    return write(parsed(STORED, {k: v.astype(np.float32) for k, v in weights.items()}), tmp_path / "stored.onnx")


def questions(outcome: Outcome) -> dict[str, dict[str, object]]:
    return outcome.document["data"]["questions"]


def test_right_data_pass_every_question(examine: Callable[..., Outcome], digits: np.ndarray) -> None:
    outcome = examine(digits)
    assert outcome.code == 0, outcome
    found = questions(outcome)
    assert {key: q["verdict"] for key, q in found.items()} == dict.fromkeys(
        ("samples", "normalisation", "enough", "outliers", "calibrators"), "fine"
    )
    assert found["enough"]["enough"] is not None
    sizes = [d["samples"] for d in found["enough"]["doublings"]]  # type: ignore[attr-defined, index]
    assert sizes == [3, 6, 12, 24, 48]
    assert set(found["calibrators"]["sqnr_db"]) >= {"minmax", "ema", "percentile", "entropy", "mse"}  # type: ignore[arg-type]
    titles = [t["title"] for t in outcome.document["tables"]]
    assert titles[0] == "Calibration data" and len(titles) == 6


@pytest.mark.parametrize("factor", [255, 1 / 255])
def test_a_wrong_scale_is_seen_by_how_the_model_reacts(
    factor: float, examine: Callable[..., Outcome], digits: np.ndarray
) -> None:
    outcome = examine(digits * factor)
    assert outcome.code == 1, outcome
    found = questions(outcome)["normalisation"]
    assert found["verdict"] == "unusable" and found["evidence"] == "reaction"
    assert found["likely"] == ["0..1"]
    note = next(n for n in outcome.document["notes"] if n["verdict"] == "normalise")
    assert f"multiply by {1 / factor:.5g}" in note["reason"]
    assert "not fit to calibrate" in outcome.document["verdict"]["reason"]


def test_a_wrong_offset_is_seen_by_what_the_outputs_tell(examine: Callable[..., Outcome], digits: np.ndarray) -> None:
    outcome = examine(digits * 2 - 1)
    assert outcome.code == 1
    assert questions(outcome)["normalisation"]["likely"] == ["0..1"]


def test_stored_statistics_fit_right_data(examine: Callable[..., Outcome], stored: Path) -> None:
    outcome = examine((photographs() - MEAN) / STD, stored, "x")
    assert outcome.code == 0, outcome
    found = questions(outcome)["normalisation"]
    assert found["verdict"] == "fine" and found["evidence"] == "stored statistics"
    assert "RGB against BGR is right" in found["reason"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda unit: unit, "ImageNet mean and std"),
        (lambda unit: unit * 255, "ImageNet mean and std"),
        (lambda unit: unit * 2 - 1, "ImageNet mean and std"),
        (lambda unit: (unit - MEAN) / STD * 255, "ImageNet mean and std"),
        (lambda unit: (unit - MEAN) / STD / 255, "ImageNet mean and std"),
        (lambda unit: unit[:, ::-1] * 255, "ImageNet mean and std, channels reversed"),
        (lambda unit: (unit[:, ::-1] - MEAN) / STD, "ImageNet mean and std, channels reversed"),
    ],
    ids=["unit", "raw", "signed", "x255", "/255", "raw BGR", "BGR"],
)
def test_stored_statistics_name_the_right_reading(
    given: Callable[[np.ndarray], np.ndarray], expected: str, examine: Callable[..., Outcome], stored: Path
) -> None:
    outcome = examine(given(photographs()), stored, "x")
    assert outcome.code == 1, outcome
    found = questions(outcome)["normalisation"]
    assert found["likely"] == [expected], found
    assert found["distance"][expected] < 0.2  # type: ignore[index]


def test_where_no_classes_tell_a_wrong_scale_is_only_possible(examine: Callable[..., Outcome], tmp_path: Path) -> None:
    weights = {"w": normal(8, 3, 3, 3, seed=1), "b": normal(8, seed=2), "v": normal(3, 8, 3, 3, seed=3)}
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 3, 16, 16] x) => (float[N, 3, 14, 14] y) '
        "{ c = Conv(x, w, b) r = Relu(c) y = Conv<pads = [1, 1, 1, 1]>(r, v) }"
    )
    model = write(parsed(text, weights), tmp_path / "image.onnx")
    assert questions(examine(photographs(), model, "x"))["normalisation"]["verdict"] == "fine"
    outcome = examine(photographs() * 255, model, "x")
    found = questions(outcome)["normalisation"]
    assert outcome.code == 0 and found["verdict"] == "doubtful"
    assert "possibly wrong" in outcome.document["verdict"]["reason"]


def test_one_wild_sample_is_named(examine: Callable[..., Outcome], digits: np.ndarray) -> None:
    data = digits.copy()
    data[17] *= 20
    outcome = examine(data)
    found = questions(outcome)["outliers"]
    assert outcome.code == 0 and found["verdict"] == "doubtful"
    assert found["values"][0]["samples"] == [17]  # type: ignore[index]
    assert any(n["node"] == "sample 17" and "alone stretches" in n["reason"] for n in outcome.document["notes"])


def test_unreadable_samples_are_counted_not_met_one_by_one(examine: Callable[..., Outcome], digits: np.ndarray) -> None:
    data = digits.copy()
    data[3, 0, 5, 5], data[8, 0, 0, 0] = np.nan, np.inf
    outcome = examine(data)
    found = questions(outcome)
    assert outcome.code == 1 and found["samples"]["verdict"] == "unusable"
    assert list(found["samples"]["broken"]) == ["3", "8"]  # type: ignore[call-overload]
    assert found["enough"]["verdict"] == "fine", "the others are still examined"


def test_blank_and_repeated_samples_are_named(examine: Callable[..., Outcome], digits: np.ndarray) -> None:
    data = digits.copy()
    data[5], data[40:60] = 0, data[0]
    found = questions(examine(data))["samples"]
    assert found["verdict"] == "doubtful"
    assert found["constant"] == [5] and found["duplicates"] == list(range(40, 60))


def test_data_of_one_sample_repeated_are_unusable(examine: Callable[..., Outcome], digits: np.ndarray) -> None:
    outcome = examine(np.repeat(digits[:1], 8, axis=0))
    assert outcome.code == 1 and "all 8 samples are the same" in outcome.document["verdict"]["reason"]


def test_zeros_are_unusable(examine: Callable[..., Outcome]) -> None:
    outcome = examine(np.zeros((8, 1, 28, 28)))
    assert outcome.code == 1 and questions(outcome)["samples"]["constant"] == list(range(8))


def test_a_channel_that_never_varies_is_doubtful(examine: Callable[..., Outcome], stored: Path) -> None:
    unit = photographs()
    unit[:, 2] = 0.5
    found = questions(examine((unit - MEAN) / STD, stored, "x"))["samples"]
    assert found["verdict"] == "doubtful" and found["inputs"]["x"]["constant_channels"] == [2]  # type: ignore[index]


def test_too_few_samples_are_told_how_many_it_takes(
    examine: Callable[..., Outcome], mlp_model: Path, tmp_path: Path
) -> None:
    heavy = np.random.default_rng(0).standard_t(1.2, (16, FEATURES))
    outcome = examine(heavy, mlp_model, "x")
    found = questions(outcome)["enough"]
    assert outcome.code == 0 and found["verdict"] == "doubtful"
    assert found["enough"] is None and found["needed"] > 16  # type: ignore[operator]
    assert any(n["verdict"] == "add" and "give about" in n["reason"] for n in outcome.document["notes"])
    single = questions(examine(heavy[:1], mlp_model, "x"))
    assert single["enough"]["verdict"] == "doubtful" and single["outliers"]["verdict"] == "unknown"


def test_the_same_seed_gives_the_same_report(examine: Callable[..., Outcome], mlp_model: Path) -> None:
    reports = [examine(normal(24, FEATURES), mlp_model, "x", "--seed", seed).document["data"] for seed in (1, 1, 2)]
    assert reports[0] == reports[1] != reports[2]


def test_people_see_the_verdicts_first(invoke: Callable[..., Outcome], mlp_model: Path, tmp_path: Path) -> None:
    outcome = invoke("doctor", mlp_model, "--data", mlp_data(tmp_path / "d.npz"), "--threads", 1)
    assert outcome.code == 0 and outcome.out.startswith("PASS d.npz")
    assert outcome.out.index("Calibration data") < outcome.out.index("Samples")
    for question in ("of use?", "in training?", "Enough samples?", "Outliers?", "calibrator work?"):
        assert question in outcome.out


def test_data_need_a_model_and_options_need_data(
    refused: Callable[..., Outcome], mlp_model: Path, mlp_npz: Path, tmp_path: Path
) -> None:
    refused(2, ["doctor", "--data", mlp_npz], "none is given", "doctor M.onnx --data D")
    refused(2, ["doctor", mlp_model, "--samples", 4], "about data", "--data")
    refused(3, ["doctor", mlp_model, "--data", tmp_path / "absent.npz"], "absent.npz")
    np.savez(tmp_path / "other.npz", z=normal(4, FEATURES))
    refused(3, ["doctor", mlp_model, "--data", tmp_path / "other.npz"], "'x'")
    refused(2, ["doctor", mlp_model, "--data", mlp_npz, "--output-name", "yy"], "'y'")


def test_a_model_without_layers_has_nothing_to_calibrate(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 8] x) => (float[N, 8] y) { y = Softmax(x) }'
    path, data = write(parsed(text), tmp_path / "m.onnx"), tmp_path / "d.npz"
    np.savez(data, x=normal(16, 8))
    outcome = invoke("--json", "doctor", path, "--data", data)
    assert outcome.code == 4
    assert "no Conv, Gemm or MatMul" in outcome.document["verdict"]["reason"]


def test_blank_samples_and_a_single_one_are_called_so(invoke: Callable[..., Outcome], tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 8] x) => (float[N, 4] y) { y = MatMul(x, w) }'
    path, data = write(parsed(text, {"w": normal(8, 4)}), tmp_path / "m.onnx"), tmp_path / "d.npz"
    np.savez(data, x=np.repeat(normal(6, 1), 8, axis=1))
    outcome = invoke("--json", "doctor", path, "--data", data)
    assert outcome.code == 1
    assert "all 6 samples are blank" in outcome.document["verdict"]["reason"]
    np.savez(data, x=normal(1, 8))
    assert "one sample cannot show" in invoke("--json", "doctor", path, "--data", data).document["verdict"]["reason"]
