"""``distill`` and ``finetune`` as a user meets them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cli.command_line import Outcome, contents, environment
from tests.cli.sample_models import CLASSES, FEATURES, MLP, cnn, mlp, mlp_weights, normal, parsed, write

Invoke = Callable[..., Outcome]
SAMPLES = 160


def damaged() -> onnx.ModelProto:
    return parsed(MLP, {n: a + 0.8 * normal(*a.shape, seed=9) for n, a in mlp_weights().items()})


@pytest.fixture
def lesson(tmp_path: Path) -> list[object]:
    """Arguments of a short run that makes a damaged MLP better."""
    write(mlp(), tmp_path / "t.onnx")
    write(damaged(), tmp_path / "s.onnx")
    np.savez(tmp_path / "d.npz", x=normal(SAMPLES, FEATURES, seed=5))
    where = [tmp_path / n for n in ("s.onnx", "t.onnx", "o.onnx", "d.npz")]
    return ["distill", where[0], "--teacher", where[1], "-o", where[2], "--data", where[3], "--threads", 1,
            "--steps", 60, "--batch", 16, "--lr", "0.01"]  # fmt: skip


def answers(path: Path, x: np.ndarray) -> np.ndarray:
    (found,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return found


def test_a_damaged_model_learns_from_its_teacher(lesson, invoke: Invoke, tmp_path) -> None:
    before = contents(tmp_path)
    outcome = invoke("--json", *lesson)
    assert outcome.code == 0, outcome
    report = outcome.document["data"]
    assert report["comparison"]["candidate_score"] > report["comparison"]["reference_score"]
    assert report["best_loss"] < report["first_loss"] and report["samples"]["judged"] == 32
    after = contents(tmp_path)
    assert set(after) - set(before) == {"o.onnx"} and all(after[n] == before[n] for n in before)
    x = normal(200, FEATURES, seed=77)
    teacher, old, new = (answers(tmp_path / n, x).argmax(1) for n in ("t.onnx", "s.onnx", "o.onnx"))
    assert (new == teacher).mean() > (old == teacher).mean() + 0.1
    assert "teachers" in onnx.load(tmp_path / "o.onnx").metadata_props[0].value
    assert str(tmp_path) not in onnx.load(tmp_path / "o.onnx").metadata_props[0].value


def test_the_same_run_gives_the_same_bytes(lesson, invoke: Invoke, tmp_path) -> None:
    invoke(*lesson)
    first = (tmp_path / "o.onnx").read_bytes()
    (tmp_path / "o.onnx").unlink()
    invoke(*lesson)
    assert (tmp_path / "o.onnx").read_bytes() == first


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(lesson, invoke: Invoke, tmp_path) -> None:
    more = ["--steps", 1000, "--patience", 0]
    lesson = lesson[: lesson.index("--steps")] + lesson[lesson.index("--steps") + 2 :] + more
    command = [sys.executable, "-m", "onnxopt", *map(str, lesson)]
    checkpoint = tmp_path / "o.onnx.checkpoint"
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None and checkpoint.exists()
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "o.onnx").exists()
    went_on = invoke(*lesson)
    assert went_on.code == 0 and "going on after step" in went_on.err, went_on
    resumed = (tmp_path / "o.onnx").read_bytes()
    assert not checkpoint.exists()
    (tmp_path / "o.onnx").unlink()
    assert invoke(*lesson).code == 0
    assert (tmp_path / "o.onnx").read_bytes() == resumed


def test_a_checkpoint_of_another_run_is_not_continued(lesson, invoke: Invoke, tmp_path) -> None:
    (tmp_path / "o.onnx.checkpoint").write_text("junk")
    outcome = invoke(*lesson)
    assert outcome.code == 0 and "starts anew" in outcome.err and not (tmp_path / "o.onnx.checkpoint").exists()


def test_a_student_that_is_its_teacher_gets_no_better_and_nothing_is_written(lesson, invoke: Invoke, tmp_path) -> None:
    lesson[1] = tmp_path / "t.onnx"
    outcome = invoke(*lesson)
    assert outcome.code == 1 and "found nothing better" in outcome.out, outcome
    assert not (tmp_path / "o.onnx").exists() and not (tmp_path / "o.onnx.checkpoint").exists()


def test_a_rate_that_is_much_too_high_stops_and_keeps_the_best(lesson, invoke: Invoke, tmp_path) -> None:
    lesson[lesson.index("--lr") + 1] = "1e3"
    outcome = invoke("-v", *lesson, "--optimizer", "sgd", "--clip", 0, "--warmup", 0, "--schedule", "constant")
    assert outcome.code == 1 and not (tmp_path / "o.onnx").exists(), outcome
    assert "step" in outcome.out and ("nan" in outcome.out or "inf" in outcome.out)


def test_a_dry_run_says_what_would_be_trained_and_does_nothing(lesson, invoke: Invoke, tmp_path) -> None:
    before = contents(tmp_path)
    outcome = invoke(*lesson, "--dry-run", "--freeze", "w1")
    assert outcome.code == 0 and "128 numbers" in outcome.out and contents(tmp_path) == before, outcome


def test_frozen_weights_stay(lesson, invoke: Invoke, tmp_path) -> None:
    assert invoke(*lesson, "--freeze", "w1").code == 0
    old, new = ({t.name: t.raw_data for t in onnx.load(tmp_path / n).graph.initializer} for n in ("s.onnx", "o.onnx"))
    assert old["w1"] == new["w1"] and old["w2"] != new["w2"]


def test_inner_values_are_matched_by_name(lesson, invoke: Invoke, tmp_path) -> None:
    assert invoke(*lesson, "--match", "h", "--match", "r=r", "--feature-weight", 50, "--lr", 0.05).code == 0
    x = normal(50, FEATURES, seed=8)
    hidden = []
    for name in ("t.onnx", "s.onnx", "o.onnx"):
        weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / name).graph.initializer}
        hidden.append(x @ weights["w1"])
    assert np.abs(hidden[2] - hidden[0]).mean() < 0.7 * np.abs(hidden[1] - hidden[0]).mean()


def test_several_teachers_and_one_with_other_names(lesson, invoke: Invoke, tmp_path) -> None:
    other = mlp()
    for node in other.graph.node:
        node.input[:] = ["image" if n == "x" else n for n in node.input]
        node.output[:] = ["logits" if n == "y" else n for n in node.output]
    other.graph.input[0].name, other.graph.output[0].name = "image", "logits"
    write(other, tmp_path / "u.onnx")
    assert invoke(*lesson, "--teacher", tmp_path / "u.onnx", "--optimizer", "rmsprop", "--lr", "0.001").code == 0


def test_labels_teach_without_a_teacher(lesson, invoke: Invoke, tmp_path) -> None:
    x = normal(SAMPLES, FEATURES, seed=5)
    np.savez(tmp_path / "d.npz", x=x, labels=answers(tmp_path / "t.onnx", x).argmax(1))
    at = lesson.index("--teacher")
    outcome = invoke("finetune", *lesson[1:at], *lesson[at + 2 :])
    assert outcome.code == 0 and "against labels" in outcome.out, outcome


def test_labels_and_teacher_together_and_the_teachers_own_score(lesson, invoke: Invoke, tmp_path) -> None:
    x = normal(SAMPLES, FEATURES, seed=5)
    np.savez(tmp_path / "d.npz", x=x, labels=answers(tmp_path / "t.onnx", x).argmax(1))
    outcome = invoke("--json", *lesson, "--teacher-weight", 0.5)
    assert outcome.code == 0 and outcome.document["data"]["labels_used"]
    assert outcome.document["data"]["teacher_score"] == 1


def test_quantized_weights_are_trained_on_their_grid(lesson, invoke: Invoke, tmp_path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> mlp (float[N, 16] x) => (float[N, 4] y) {
        a = DequantizeLinear<axis=1>(w1, s1)  h = MatMul(x, a)  r = Relu(h)  q = QuantizeLinear(r, sr, zr)
        d = DequantizeLinear(q, sr, zr)  b = DequantizeLinear<axis=1>(w2, s2)  y = MatMul(d, b) }"""
    weights = {"sr": np.array(0.12, np.float32), "zr": np.array(0, np.uint8)}
    for name, array in mlp_weights().items():
        scale = np.abs(array).max(0) / 1.5  # few codes: much is lost
        weights |= {name: np.clip(np.round(array / scale), -2, 1).astype(np.int8), f"s{name[1]}": scale}
    write(parsed(text, weights), tmp_path / "s.onnx")
    outcome = invoke("--json", *lesson, "--steps", 200, "--patience", 0)
    assert outcome.code == 0, outcome
    model = onnx.load(tmp_path / "o.onnx")
    assert {t.data_type for t in model.graph.initializer if t.name in ("w1", "w2")} == {onnx.TensorProto.INT8}
    assert model.graph.node[0].op_type == "DequantizeLinear"


def test_a_model_of_a_fixed_batch_is_trained_sample_by_sample(lesson, invoke: Invoke, tmp_path) -> None:
    student = damaged()
    for value in (student.graph.input[0], student.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    write(student, tmp_path / "s.onnx")
    teacher = mlp()
    for value in (teacher.graph.input[0], teacher.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    write(teacher, tmp_path / "t.onnx")
    assert invoke(*lesson).code == 0


def test_without_torch_the_extra_is_named(lesson, invoke: Invoke, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    outcome = invoke(*lesson)
    assert outcome.code == 3 and "onnxopt[torch]" in outcome.err, outcome


def test_without_tensorboard_the_extra_is_named(lesson, invoke: Invoke, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    outcome = invoke(*lesson, "--tensorboard", tmp_path / "events")
    assert outcome.code == 3 and "onnxopt[tensorboard]" in outcome.err, outcome


def test_event_files_are_written(lesson, invoke: Invoke, tmp_path) -> None:
    pytest.importorskip("tensorboardX")
    assert invoke(*lesson, "--tensorboard", tmp_path / "events").code == 0
    assert any(f.name.startswith("events") and f.stat().st_size > 100 for f in (tmp_path / "events").iterdir())


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--freeze", "nothing*"], 2, ["nothing*"]),
        (["--freeze", "*"], 4, ["no weight is left"]),
        (["--augment", "flip"], 2, ["image"]),
        (["--augment", "twirl"], 2, ["twirl"]),
        (["--match", "hh"], 2, ["hh", "'h'"]),
        (["--loss", "zero"], 2, ["zero"]),
        (["--lr", "nan"], 2, ["nan"]),
        (["--output-name", "z"], 2, ["'z'"]),
        (["--data", "missing.npz"], 3, ["missing.npz"]),
        (["--teacher", "missing.onnx"], 3, ["missing.onnx"]),
    ],
)
def test_bad_options_are_explained(change, code, words, lesson, refused) -> None:
    refused(code, [*lesson, *change], *words)


def test_bad_input_is_explained(lesson, refused, tmp_path) -> None:
    teacher = lesson.index("--teacher")
    refused(2, lesson[:teacher] + lesson[teacher + 2 :], "teacher")
    refused(2, [*lesson[: lesson.index("-o")], *lesson[lesson.index("-o") + 2 :]], "-o OUT")
    refused(2, [*lesson, "-o", tmp_path / "t.onnx"], "input")
    refused(3, ["finetune", lesson[1], *lesson[teacher + 2 :]], "labels")
    write(cnn(), tmp_path / "c.onnx")
    refused(3, [*lesson, "--teacher", tmp_path / "c.onnx"], "teacher")
    np.savez(tmp_path / "d.npz", x=normal(SAMPLES, FEATURES), labels=np.full(SAMPLES, CLASSES))
    refused(3, lesson, "label 4", "0 to 3")
    np.savez(tmp_path / "d.npz", x=normal(3, FEATURES))
    refused(3, lesson, "too few")


def test_an_operator_that_cannot_be_trained_through_is_named(lesson, refused, tmp_path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> mlp (float[N, 16] x) => (float[N, 4] y) {
        h = MatMul(x, w1)  [odd] d = Bernoulli(h)  y = MatMul(d, w2) }"""
    write(parsed(text, mlp_weights()), tmp_path / "s.onnx")
    refused(3, lesson, "Bernoulli", "odd")
