"""The arithmetic under ``doctor --data``."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.quantization.doctor.collapse import judge_calibrators
from onnxopt.quantization.doctor.moments import Moments, divergence, information
from onnxopt.quantization.doctor.outliers import judge_outliers
from onnxopt.quantization.doctor.readings import alternatives, recognised
from onnxopt.quantization.doctor.stability import judge_stability, relative_change
from onnxopt.quantization.doctor.watch import doublings, watch
from onnxopt.quantization.ranges.calibrate import calibrate
from onnxopt.quantization.ranges.calibrators import choose_range
from onnxopt.quantization.scheme import CPU_X86
from onnxopt.quantization.select import quantizable
from tests.quantization.conftest import Lab

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
MLP = (
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 16] x) => (float[N, 16] y) '
    "{ a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }"
)


def test_numbers_of_samples_double_up_to_all() -> None:
    assert doublings(100) == (3, 6, 12, 25, 50, 100)
    assert doublings(5) == (2, 5)
    assert doublings(3) == (3,)
    assert len(doublings(100_000)) == 7


def test_one_pass_gives_the_ranges_of_each_calibration(lab: Lab, rng: np.random.Generator) -> None:
    weights = {k: rng.standard_normal((16, 16)).astype(np.float32) for k in "wv"}
    model = lab.build(MLP, **weights)
    feeds = [{"x": (rng.standard_normal((3, 16)) * (1 + i)).astype(np.float32)} for i in range(13)]
    ctx = lab.context(feeds)
    assert ctx.data is not None
    names = quantizable(model)
    watched, places = watch(model, names, ctx.data, "mse", ctx)
    assert sorted(places) == list(range(13)) and list(places) != list(range(13))
    for name in names:
        seen = watched[name]
        assert [d.samples for d in seen.doublings] == [3, 6]
        for doubling, parts in zip(seen.doublings, ((3, 6), (6, 13)), strict=True):
            for got, indices in (
                (doubling.first, places[: parts[0]]),
                (doubling.second, places[parts[0] : parts[1]]),
                (doubling.both, places[: parts[1]]),
            ):
                found = calibrate(model, [name], ctx.data.take(indices), ctx.target, ctx.workdir, histograms=True)
                assert got == choose_range(found[name], "mse", CPU_X86.activations)
    assert np.allclose(watched["x"].highs, [feeds[i]["x"].max() for i in places])
    channels = watched["x"].channels
    assert channels is not None
    assert np.allclose(channels, np.abs(np.concatenate([f["x"] for f in feeds])).max(axis=0))


def test_ranges_of_equal_samples_are_stable_and_of_growing_ones_are_not(lab: Lab, rng: np.random.Generator) -> None:
    model = lab.build(MLP, **{k: rng.standard_normal((16, 16)).astype(np.float32) for k in "wv"})
    base = rng.standard_normal((8, 16)).astype(np.float32)
    for scale, word in ((0.0, "fine"), (3.0, "doubtful")):
        feeds = [{"x": base * np.float32(np.exp(scale * rng.standard_normal()))} for _ in range(16)]
        ctx = lab.context(feeds)
        assert ctx.data is not None
        watched, places = watch(model, quantizable(model), ctx.data, "mse", ctx)
        answer = judge_stability(watched, "mse", 16)
        assert answer.word == word, answer
        assert (judge_outliers(watched, places).word == "fine") == (word == "fine")


def test_relative_change_is_zero_for_equal_ranges_and_symmetrical() -> None:
    assert relative_change((-1, 2), (-1, 2)) == 0 == relative_change((0, 0), (0, 0))
    assert relative_change((0, 1), (0, 2)) == relative_change((0, 2), (0, 1)) == 0.5


@pytest.mark.parametrize("scale", [1.0, 255.0, 1 / 255])
def test_each_convention_is_recognised_and_undone(scale: float, rng: np.random.Generator) -> None:
    unit = rng.uniform(0, 1, (4, 3, 8, 8))
    unit[0, :, 0, 0], unit[0, :, 0, 1] = 0, 1
    mean, std = (v.reshape(1, 3, 1, 1) for v in (MEAN, STD))
    made = {"0..1": unit, "0..255": unit * 255, "-1..1": unit * 2 - 1, "ImageNet mean and std": (unit - mean) / std}
    for name, array in made.items():
        given = array * scale
        axes = (0, 2, 3)
        known = recognised(given.min(axis=axes), given.max(axis=axes))
        readings = alternatives(known, given.mean(axis=axes), given.std(axis=axes))
        fitting = {r.name: r.apply(given.astype(np.float32), 1) for r in readings}
        for other, expected in made.items():
            if not (other == name and scale == 1):
                same = [n for n, a in fitting.items() if np.allclose(a, expected, rtol=1e-4, atol=2e-3)]
                assert same or np.allclose(given, expected), (name, other)
                turned = (unit[:, ::-1] - mean) / std if "ImageNet" in other else expected[:, ::-1]
                assert np.allclose(fitting[f"{other}, channels reversed"], turned, rtol=1e-4, atol=2e-3)


def test_divergence_is_zero_for_equal_moments_and_grows(rng: np.random.Generator) -> None:
    data = rng.normal(2, 3, (5, 4, 50))
    seen = Moments()
    for row in data:
        seen.update(row[None])
    assert np.allclose(seen.mean, data.mean(axis=(0, 2))) and np.allclose(seen.std, data.std(axis=(0, 2)))
    assert divergence(seen, seen.mean, seen.variance) < 1e-9
    near, far = (divergence(seen, seen.mean + shift, seen.variance) for shift in (1, 10))
    assert 0 < near < far


def test_information_is_that_of_sure_and_of_constant_answers() -> None:
    sure, constant = np.eye(4) * 50, np.tile([3.0, 0, 0, 0], (4, 1))
    assert information(sure) == pytest.approx(np.log(4), abs=1e-6)
    assert information(constant) == pytest.approx(0, abs=1e-9)
    assert information(np.eye(4)) == pytest.approx(np.log(4)), "probabilities are taken as they are"


def test_a_calibrator_that_collapses_is_named() -> None:
    answer = judge_calibrators({"mse": 40.0, "minmax": 39.0, "entropy": 4.0}, "mse")
    assert answer.word == "fine" and [n.node for n in answer.advice] == ["--calibrator entropy"]
    assert judge_calibrators({"mse": 4.0, "minmax": 39.0}, "mse").word == "doubtful"
    lost = judge_calibrators({"mse": 3.0, "minmax": 2.0}, "mse")
    assert lost.word == "doubtful" and "inspect --quantize" in lost.advice[0].reason
    assert judge_calibrators({}, "mse").word == "unknown"
