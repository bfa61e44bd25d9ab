"""Written ensembles against the numpy ensemble of separate sessions, computed here by hand."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxopt import Average, Cascade, Serial, Soup, Source, Stack, Target, Vote, Weighted, merge
from onnxopt.errors import UsageError
from onnxopt.merging.strategies import Strategy
from tests.merging.models import CLASSES, FEATURES, from_text, net, samples, truth, weights

ONE = Target(threads=1)


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    parts = [x[i : i + 1] for i in range(len(x))] if batch == 1 else [x]
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x = samples(160)
    np.savez(tmp_path / "data.npz", x=x, labels=truth(x, 1, 2, 3))
    return tmp_path / "data.npz"


def merged(paths: list[Path], tmp_path: Path, data: Path | None, strategy: Strategy, **options: object) -> Path:
    output = tmp_path / "out.onnx"
    source = Source(None if data is None else str(data))
    report = merge(paths, output, source, strategy=strategy, target=ONE, force=True, **options)
    assert report.exit_code == 0, report.verdict
    onnx.checker.check_model(str(output), full_check=True)
    return output


def mean(parts: list[np.ndarray]) -> np.ndarray:
    return np.mean(parts, axis=0)


def votes(parts: list[np.ndarray]) -> np.ndarray:
    return np.mean([np.eye(CLASSES)[p.argmax(axis=1)] for p in parts], axis=0)


RULES: list[tuple[Strategy, Callable[[list[np.ndarray]], np.ndarray]]] = [
    (Average(), mean),
    (Average(on="logits"), lambda parts: np.mean([np.log(np.maximum(p, 1e-7)) for p in parts], axis=0)),
    (Weighted((2.0, 1.0, 1.0)), lambda parts: 0.5 * parts[0] + 0.25 * parts[1] + 0.25 * parts[2]),
    (Vote("hard"), votes),
    (Vote("soft"), mean),
]


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("opsets", [(13, 17, 18), (21, 21, 21)])
@pytest.mark.parametrize(("strategy", "by_hand"), RULES, ids=[str(s) for s, _ in RULES])
def test_outputs_are_those_of_separate_sessions(
    tmp_path: Path,
    data: Path,
    strategy: Strategy,
    by_hand: Callable[[list[np.ndarray]], np.ndarray],
    opsets: tuple[int, int, int],
    batch: int | str,
) -> None:
    paths = [net(tmp_path / f"{k}.onnx", k + 1, opset=o, batch=batch) for k, o in enumerate(opsets)]
    output = merged(paths, tmp_path, data, strategy)
    for count in (1, 8):
        x = samples(count, seed=count)
        assert np.abs(run(output, x) - by_hand([run(p, x) for p in paths])).max() < 1e-5


def test_auto_gives_logits_a_softmax_where_a_member_has_one(tmp_path: Path, data: Path) -> None:
    paths = [net(tmp_path / "a.onnx", 1), net(tmp_path / "b.onnx", 2, softmax=False, x="image", y="scores")]
    output = merged(paths, tmp_path, data, Average())
    x = samples(8)
    assert np.abs(run(output, x) - (run(paths[0], x) + softmax(run(paths[1], x))) / 2).max() < 1e-5


def test_logits_without_labels_are_averaged_as_they_are(tmp_path: Path) -> None:
    paths = [net(tmp_path / f"{k}.onnx", k, softmax=False) for k in (1, 2)]
    x = samples(8)
    assert np.abs(run(merged(paths, tmp_path, None, Average()), x) - mean([run(p, x) for p in paths])).max() < 1e-5


@pytest.mark.parametrize("batch", [1, "N"])
def test_cascade_answers_each_item_as_the_rule_says(tmp_path: Path, data: Path, batch: int | str) -> None:
    paths = [net(tmp_path / f"{k}.onnx", k, batch=batch) for k in (1, 2, 3)]
    output = merged(paths, tmp_path, data, Cascade(threshold=0.9))
    for x in (samples(1, seed=4), samples(64, seed=5), 30 * samples(8, seed=6)):
        parts = [run(p, x) for p in paths]
        wanted = parts[0].copy()
        for count in (2, 3):
            late = wanted.max(axis=1) < 0.9
            wanted[late] = mean(parts[:count])[late]
        assert np.abs(run(output, x) - wanted).max() < 1e-5


def test_cascade_runs_no_further_member_when_all_are_sure(tmp_path: Path, data: Path) -> None:
    paths = [net(tmp_path / f"{k}.onnx", k) for k in (1, 2)]
    output = merged(paths, tmp_path, data, Cascade(threshold=0.26))
    x = 100 * samples(8)
    assert np.array_equal(run(output, x), run(paths[0], x))


def test_fitted_weights_leave_out_a_member_that_is_noise(tmp_path: Path) -> None:
    x = samples(400)
    np.savez(tmp_path / "one.npz", x=x, labels=truth(x, 1))
    paths = [net(tmp_path / f"{k}.onnx", k) for k in (1, 7)]
    output = tmp_path / "out.onnx"
    report = merge(paths, output, Source(str(tmp_path / "one.npz")), strategy=Weighted(), target=ONE)
    assert report.exit_code == 1
    assert not output.exists()
    assert "not better than its best member" in report.verdict.reason
    assert report.data["kept"] == ["1.onnx"]


def test_a_stack_is_better_than_its_members_and_in_the_file(tmp_path: Path, data: Path) -> None:
    paths = [net(tmp_path / f"{k}.onnx", k) for k in (1, 2, 3)]
    output = tmp_path / "out.onnx"
    report = merge(paths, output, Source(str(data)), strategy=Stack(), target=ONE)
    assert report.exit_code == 0, report.verdict
    x = samples(500, seed=8)
    right = (run(output, x).argmax(axis=1) == truth(x, 1, 2, 3)).mean()
    assert right > max((run(p, x).argmax(axis=1) == truth(x, 1, 2, 3)).mean() for p in paths)


def test_a_meta_model_of_the_user_takes_all_outputs_side_by_side(tmp_path: Path, data: Path) -> None:
    paths = [net(tmp_path / f"{k}.onnx", k) for k in (1, 2)]
    w = np.random.default_rng(0).standard_normal((2 * CLASSES, CLASSES)).astype(np.float32)
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 8] f) => (float[N, 4] y) { y = MatMul(f, w) }'
    meta = from_text(tmp_path / "meta.onnx", text, w=w)
    output = merged(paths, tmp_path, data, Stack(meta))
    x = samples(8)
    wanted = np.concatenate([run(p, x) for p in paths], axis=1) @ w
    assert np.abs(run(output, x) - wanted).max() < 1e-5


@pytest.mark.parametrize("meta", ["sklearn.linear_model:LogisticRegression", "sklearn.svm:LinearSVC"])
def test_a_meta_model_of_scikit_learn_is_fitted_and_written_into_the_graph(
    meta: str, tmp_path: Path, data: Path
) -> None:
    pytest.importorskip("skl2onnx", reason="estimators are converted by skl2onnx")
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    paths = [net(tmp_path / f"{k}.onnx", k) for k in (1, 2)]
    output = merged(paths, tmp_path, data, Stack(meta))
    known = np.load(data)
    estimator = clone(LogisticRegression() if "Logistic" in meta else LinearSVC())
    estimator.fit(np.concatenate([run(p, known["x"]) for p in paths], axis=1), known["labels"])
    x = samples(50)
    features = np.concatenate([run(p, x) for p in paths], axis=1)
    assert (run(output, x).argmax(axis=1) == estimator.predict(features)).mean() > 0.97


@pytest.mark.parametrize(("name", "opset"), [("meta.joblib", 17), ("my meta.pkl", 13), ("meta.skops", 17)])
def test_a_fitted_meta_model_is_asked_for_as_onnx_by_a_command_that_works(
    name: str, opset: int, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skl2onnx", reason="estimators are converted by skl2onnx")
    import joblib
    import skops.io
    from sklearn.linear_model import LogisticRegression

    from onnxopt.cli.main import run as run_command

    paths = [net(tmp_path / f"{k}.onnx", k, opset=opset) for k in (1, 2)]
    known = np.load(data)
    features = np.concatenate([run(p, known["x"]) for p in paths], axis=1)
    estimator = LogisticRegression().fit(features, known["labels"])
    (skops.io if name.endswith(".skops") else joblib).dump(estimator, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is given as ONNX") as refused:
        merged(paths, tmp_path, data, Stack(name))
    command = shlex.split(refused.value.fix.split("`")[1])
    assert command[0] == "onnxopt" and run_command(command[1:]) == 0
    output = merged(paths, tmp_path, data, Stack("meta.onnx"))
    assert (run(output, known["x"]).argmax(axis=1) == estimator.predict(features)).mean() > 0.97


def test_a_series_hands_the_output_on_with_glue(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 13]> f (float[N, 3, 4] image) => (float[N, 3, 4] z) { z = Tanh(image) }'
    paths = [from_text(tmp_path / "front.onnx", text), net(tmp_path / "back.onnx", 1)]
    output = merged(paths, tmp_path, None, Serial())
    x = samples(8)
    session = ort.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": x.reshape(-1, 3, 4)})[0]
    assert np.abs(found - run(paths[1], np.tanh(x))).max() < 1e-5


def test_a_soup_has_the_mean_of_the_weights(tmp_path: Path) -> None:
    base, rng = weights(1), np.random.default_rng(0)
    tunes = [{n: a + 0.02 * rng.standard_normal(a.shape).astype(np.float32) for n, a in base.items()} for _ in range(3)]
    paths = [net(tmp_path / f"{k}.onnx", 0, initial=tune) for k, tune in enumerate(tunes)]
    x = samples(400)
    np.savez(tmp_path / "d.npz", x=x, labels=truth(x, 1))
    output = tmp_path / "out.onnx"
    report = merge(paths, output, Source(str(tmp_path / "d.npz")), strategy=Soup(), target=ONE, force=True)
    kept = [int(name[0]) for name in report.data["kept"]]
    assert len(kept) > 1
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    for name in base:
        assert np.allclose(written[name], np.mean([tunes[k][name] for k in kept], axis=0), atol=1e-6)


def test_a_common_trunk_is_computed_and_stored_once(tmp_path: Path) -> None:
    trunk = weights(1)["w1"]
    paths = [net(tmp_path / f"{k}.onnx", 0, initial={"w1": trunk, "w2": weights(k)["w2"]}) for k in (2, 3, 4)]
    output = merged(paths, tmp_path, None, Average())
    graph = onnx.load(output).graph
    assert sum(n.op_type == "Relu" for n in graph.node) == 1
    assert sum(list(t.dims) == [FEATURES, 16] for t in graph.initializer) == 1
    x = samples(8)
    assert np.abs(run(output, x) - mean([run(p, x) for p in paths])).max() < 1e-5


@pytest.mark.parametrize("strategy", [Average(), Vote("soft"), Weighted((1.0, 3.0))])
def test_a_model_merged_with_itself_is_itself(tmp_path: Path, strategy: Strategy) -> None:
    path = net(tmp_path / "a.onnx", 1)
    output = merged([path, path], tmp_path, None, strategy)
    x = samples(8)
    assert np.abs(run(output, x) - run(path, x)).max() < 1e-6
    assert sum(n.op_type == "MatMul" for n in onnx.load(output).graph.node) == 2


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, data: Path) -> None:
    paths = [net(tmp_path / f"{k}.onnx", k) for k in (1, 2, 3)]
    before = [p.read_bytes() for p in paths]
    first = merged(paths, tmp_path, data, Weighted()).read_bytes()
    assert merged(paths, tmp_path, data, Weighted()).read_bytes() == first
    assert [p.read_bytes() for p in paths] == before
