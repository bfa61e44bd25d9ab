"""``onnxopt merge`` from the command line: what it says, and how it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cli.command_line import Outcome, latency
from tests.cli.sample_models import CUSTOM, parsed, write
from tests.merging.models import BOXES, STATE, from_text, net, samples, truth

Refused = Callable[..., Outcome]
Invoke = Callable[..., Outcome]


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    for module in ("onnxopt.commands.merge", "onnxopt.commands.merge_fuse", "onnxopt.commands.merge_serial"):
        monkeypatch.setattr(f"{module}.compare_latency", lambda *args, **options: latency("faster"))
    return [net(tmp_path / f"{k}.onnx", k) for k in (1, 2)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x = samples(80)
    np.savez(tmp_path / "data.npz", x=x, labels=truth(x, 1, 2))
    return tmp_path / "data.npz"


def test_the_report_and_the_file(nets: list[Path], data: Path, tmp_path: Path, invoke: Invoke) -> None:
    outcome = invoke("merge", *nets, "-o", tmp_path / "o.onnx", "--data", data, "--json")
    assert outcome.code == 0, outcome
    document = outcome.document["data"]
    assert document["strategy"] == "weighted"
    assert document["judgement"]["ensemble"] > document["judgement"]["best"]
    stamped = {p.key: p.value for p in onnx.load(tmp_path / "o.onnx").metadata_props}
    recipe = json.loads(stamped["onnxopt"])
    assert recipe["recipe"][0]["pass"] == "weighted"
    assert len(recipe["further_sources_sha256"]) == 1


def test_without_gain_nothing_is_written_unless_forced(
    data: Path, nets: list[Path], tmp_path: Path, invoke: Invoke
) -> None:
    same = [nets[0], nets[0]]
    output = tmp_path / "o.onnx"
    outcome = invoke("merge", *same, "-o", output, "--data", data, "--strategy", "average")
    assert outcome.code == 1
    assert "not better than its best member" in outcome.out.splitlines()[0]
    assert not output.exists()
    assert invoke("merge", *same, "-o", output, "--data", data, "--strategy", "average", "--force").code == 0
    assert output.exists()


def test_one_member_only(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    refused(3, ["merge", nets[0], "-o", tmp_path / "o.onnx"], "two models or more")


def test_another_number_of_classes(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 12] x) => (float[N, 5] y) { y = MatMul(x, w) }'
    other = from_text(tmp_path / "five.onnx", text, w=np.zeros((12, 5), np.float32))
    refused(3, ["merge", nets[0], other, "-o", tmp_path / "o.onnx"], "numbers of classes", "five.onnx")


def test_inputs_of_other_sizes(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> m (float[N, 7] x) => (float[N, 4] y) { y = MatMul(x, w) }'
    other = from_text(tmp_path / "seven.onnx", text, w=np.zeros((7, 4), np.float32))
    refused(3, ["merge", nets[0], other, "-o", tmp_path / "o.onnx"], "cannot share an input", "seven.onnx")


def test_labels_that_do_not_fit(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    np.savez(tmp_path / "bad.npz", x=samples(20), labels=np.full(20, 9))
    refused(3, ["merge", *nets, "-o", tmp_path / "o.onnx", "--data", tmp_path / "bad.npz"], "label 9")


def test_weights_without_labels(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    refused(3, ["merge", *nets, "-o", tmp_path / "o.onnx", "--strategy", "weighted"], "labels")


def test_a_member_that_does_not_load(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    refused(3, ["merge", nets[0], tmp_path / "broken.onnx", "-o", tmp_path / "o.onnx"], "broken.onnx")


def test_a_member_with_state(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    shapes = {"w": (1, 12, 12), "r": (1, 12, 4)}
    stateful = from_text(tmp_path / "gru.onnx", STATE, **{n: np.zeros(s, np.float32) for n, s in shapes.items()})
    refused(3, ["merge", stateful, stateful, "-o", tmp_path / "o.onnx"], "is a state", "h0")


def test_a_member_with_custom_operators(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    custom = write(parsed(CUSTOM), tmp_path / "custom.onnx")
    refused(3, ["merge", nets[0], custom, "-o", tmp_path / "o.onnx"], "custom.onnx")


def test_boxes(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    boxes = from_text(tmp_path / "boxes.onnx", BOXES)
    refused(3, ["merge", boxes, boxes, "-o", tmp_path / "o.onnx"], "boxes", "cannot be averaged")


def test_independent_models_are_no_soup(nets: list[Path], data: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = ["merge", *nets, "-o", tmp_path / "o.onnx", "--data", data, "--strategy", "soup"]
    refused(3, arguments, "no fine-tunes of one parent")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "1,2"], ["has no effect here"]),
        (["--strategy", "weighted", "--weights", "1,2,3"], ["3 weights for 2 models"]),
        (["--strategy", "weighted", "--weights", "a,b"], ["are no weights"]),
        (["--input-map", "2:z=x"], ["has no input 'z'"]),
        (["--input-map", "7:x=x"], ["no model '7'"]),
        (["--output-name", "logits"], ["has no output 'logits'"]),
        (["--preprocess", "images.toml"], ["there are no data"]),
        (["--preprocess", "2:zoom=3"], ["unknown key 'zoom'"]),
        (["--strategy", "cascade", "--threshold", "2"], ["2 is no share"]),
        (["--strategy", "cascade", "--fuse", "on"], ["has no effect here", "--strategy cascade"]),
    ],
)
def test_options_that_say_nothing(
    nets: list[Path], tmp_path: Path, refused: Refused, options: list[str], words: list[str]
) -> None:
    refused(2, ["merge", *nets, "-o", tmp_path / "o.onnx", *options], *words)


def test_a_member_that_gives_nan(nets: list[Path], tmp_path: Path, refused: Refused) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    text = f"{head} m (float[N, 12] x) => (float[N, 4] y) {{ a = MatMul(x, w) y = Div(a, a) }}"
    bad = from_text(tmp_path / "bad.onnx", text, w=np.zeros((12, 4), np.float32))
    refused(3, ["merge", nets[0], bad, "-o", tmp_path / "o.onnx"], "is NaN", "bad.onnx")


@pytest.mark.parametrize("strategy", ["average", "weighted", "stack", "cascade"])
def test_one_labelled_sample(nets: list[Path], tmp_path: Path, refused: Refused, strategy: str) -> None:
    np.savez(tmp_path / "one.npz", x=samples(1), labels=np.zeros(1, np.int64))
    arguments = ["merge", *nets, "-o", tmp_path / "o.onnx", "--data", tmp_path / "one.npz", "--strategy", strategy]
    refused(3, arguments, "what to do: give more")


def test_functions_that_fail(nets: list[Path], data: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = ["merge", *nets, "-o", tmp_path / "o.onnx", "--data", data]
    refused(2, [*arguments, "--strategy", "stack", "--meta", "os:system"], "os:system failed", "--meta")
    refused(3, [*arguments, "--metric", "os:getcwd"], "metric function failed", "os:getcwd")


def test_members_side_by_side(nets: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    output, x = tmp_path / "o.onnx", samples(5)
    one_by_one = ort.InferenceSession(str(nets[0])), ort.InferenceSession(str(nets[1]))
    wanted = np.mean([s.run(None, {"x": x})[0] for s in one_by_one], axis=0)
    for fuse, count in (("on", 2), ("off", 4), ("auto", 2)):
        outcome = invoke("merge", *nets, "-o", output, "--fuse", fuse, "--json")
        assert outcome.code == 0, outcome
        fusion = outcome.document["data"]["fusion"]
        assert (fusion is None) == (fuse == "off")
        assert sum(n.op_type == "MatMul" for n in onnx.load(output).graph.node) == count
        assert np.abs(ort.InferenceSession(str(output)).run(None, {"x": x})[0] - wanted).max() < 1e-5


def test_side_by_side_is_left_out_when_it_is_not_faster(
    nets: list[Path], tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxopt.commands.merge_fuse.compare_latency", lambda *args, **options: latency("same"))
    output = tmp_path / "o.onnx"
    for fuse, count, kept in (("auto", 4, False), ("on", 2, True)):
        outcome = invoke("merge", *nets, "-o", output, "--fuse", fuse, "--json")
        assert outcome.document["data"]["fusion"]["is_kept"] is kept
        assert sum(n.op_type == "MatMul" for n in onnx.load(output).graph.node) == count


def test_the_output_is_an_input(nets: list[Path], refused: Refused) -> None:
    refused(2, ["merge", *nets, "-o", nets[1]], "the output is an input")


def test_a_member_with_other_preprocessing(nets: list[Path], tmp_path: Path, invoke: Invoke) -> None:
    outcome = invoke("merge", *nets, "-o", tmp_path / "o.onnx", "--preprocess", "2:scale=2,mean=1", "--json")
    assert outcome.code == 0, outcome
    x = samples(4)
    first, second, both = (
        ort.InferenceSession(str(p), providers=["CPUExecutionProvider"]) for p in (*nets, tmp_path / "o.onnx")
    )
    wanted = (first.run(None, {"x": x})[0] + second.run(None, {"x": 2 * x - 1})[0]) / 2
    assert np.abs(both.run(None, {"x": x})[0] - wanted).max() < 1e-5
