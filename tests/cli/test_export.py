"""``export`` as a user meets it: PyTorch modules by name, their files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.cli.command_line import Outcome, contents

torch = pytest.importorskip("torch", reason="PyTorch models are exported by PyTorch")
pytest.importorskip("onnxscript", reason="the exporter of PyTorch needs it")

from tests.cli.torch_nets import Cnn, Tagger  # noqa: E402

Invoke = Callable[..., Outcome]
NETS = "tests.cli.torch_nets:"
DEPRECATED = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
"""PyTorch would have nobody make new TorchScript files; there are many old ones."""


def answers(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def test_a_module_becomes_onnx_that_computes_the_same(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    outcome = invoke("--json", "export", f"{NETS}cnn", "-o", out, "--threads", 1)
    assert outcome.code == 0, outcome
    report = outcome.document["data"]
    assert [row["case"] for row in report["parity"]] == ["batch 1", "batch 2", "batch 8"]
    assert report["exporter"] == "torch.export" and report["written"]
    assert any("training mode" in note["reason"] for note in outcome.document["notes"])
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["image"] and [o.name for o in model.graph.output] == ["output"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch" and [d.dim_value for d in dims[1:]] == [3, 8, 8]
    names = {i.name for i in model.graph.initializer}
    assert {"body.0.weight", "rows.weight", "rows.bias", "head.weight", "head.bias"} <= names
    image = np.random.default_rng(5).standard_normal((3, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = Cnn().eval()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(answers(out, {"image": image})[0], expected, atol=1e-5)


def test_the_source_is_in_the_metadata_and_no_path(invoke: Invoke, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert invoke("export", f"{NETS}cnn", "-o", tmp_path / name, "--threads", 1).code == 0
    payload = (tmp_path / "a.onnx").read_bytes()
    assert payload == (tmp_path / "b.onnx").read_bytes()
    assert str(Path(__file__).parent).encode() not in payload and b"site-packages" not in payload
    found = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    exported = found["onnxopt.export"]
    assert exported["framework"] == "pytorch" and exported["versions"]["torch"] == torch.__version__
    assert exported["weights_sha256"] == found["onnxopt"]["source_sha256"] and found["onnxopt"]["verdict"]["parity"]


def test_free_axes_tables_and_named_outputs(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    given = ["--input", "words:int64[N,T]", "--input", "mask:float32[N,T]"]
    outcome = invoke("--json", "export", f"{NETS}tagger", "-o", out, *given, "--threads", 1)
    assert outcome.code == 0, outcome
    cases = {row["case"] for row in outcome.document["data"]["parity"]}
    assert cases == {"batch 1, T 16", "batch 2, T 16", "batch 8, T 16", "batch 2, T 32"}
    generator = np.random.default_rng(1)
    words, mask = generator.integers(0, 50, (3, 11)), generator.random((3, 11), dtype=np.float32)
    with torch.no_grad():
        expected = Tagger().eval()(torch.from_numpy(words), mask=torch.from_numpy(mask))
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    values = session.run(None, {"words": words, "mask": mask})
    found = dict(zip((o.name for o in session.get_outputs()), values, strict=True))
    assert list(found) == ["tags", "summary"]
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name].numpy(), atol=1e-5)


def test_a_first_axis_that_is_no_batch_stays_fixed(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    outcome = invoke("--json", "export", f"{NETS}single", "-o", out, "--exporter", "torchscript", "--threads", 1)
    assert outcome.code == 0, outcome
    assert {row["case"] for row in outcome.document["data"]["parity"]} == {"fixed batch"}
    assert any("fixed at 7" in note["reason"] for note in outcome.document["notes"])
    shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load(out).graph.input]
    assert shapes == [[7, 3], [3]]


def test_data_describe_the_inputs_and_are_compared(invoke: Invoke, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.random.default_rng(0).random((4, 3, 8, 8)), labels=np.zeros(4))
    where = ["-o", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "--threads", 1]
    outcome = invoke("--json", "export", f"{NETS}cnn_alone", *where)
    assert outcome.code == 0, outcome
    assert "batch 8, data" in {row["case"] for row in outcome.document["data"]["parity"]}


def test_a_branch_that_a_trace_lost_is_refused_by_name(invoke: Invoke, tmp_path: Path) -> None:
    outcome = invoke("export", f"{NETS}branch", "-o", tmp_path / "m.onnx", "--threads", 1)
    assert outcome.code == 1 and not list(tmp_path.iterdir()), outcome
    first = outcome.out.splitlines()[0]
    assert first.startswith("FAIL torchscript: output 'output' differs at batch 8") and "two" not in first
    assert "is the first to differ" in first and "/model/before" in first, first


def test_a_wrong_symbol_is_refused_by_name_and_the_other_exporter_is_right(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    wrong = invoke("export", f"{NETS}wrong_symbol", "-o", out, "--exporter", "torchscript", "--threads", 1)
    assert wrong.code == 1 and not out.exists(), wrong
    assert "node '/model/twice/Mul' (Mul) is the first to differ" in wrong.out.splitlines()[0]
    assert invoke("export", f"{NETS}wrong_symbol", "-o", out, "--threads", 1).code == 0


def test_what_is_random_in_evaluation_mode_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    outcome = invoke("export", f"{NETS}noisy", "-o", tmp_path / "m.onnx", "--threads", 1)
    assert outcome.code == 1 and not list(tmp_path.iterdir())
    assert "something is random in evaluation mode too" in outcome.out.splitlines()[0]


@DEPRECATED
def test_files_of_torch(invoke: Invoke, refused: Invoke, tmp_path: Path) -> None:
    module = Cnn().eval()
    example = torch.zeros(2, 3, 8, 8)
    torch.jit.trace(module, example).save(tmp_path / "script.pt")
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save(module, tmp_path / "pickle.pt")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    out, shape = ["-o", tmp_path / "m.onnx", "--threads", 1], ["--input", "image:float32[N,3,8,8]"]
    refused(3, ["export", tmp_path / "pickle.pt", *out], "--trust", "pickle")
    refused(3, ["export", tmp_path / "program.pt2", *out], "--trust")
    refused(3, ["export", tmp_path / "weights.pt", *out, "--trust"], "package.module:function")
    refused(2, ["export", tmp_path / "script.pt", *out], "--input")
    image = np.random.default_rng(5).standard_normal((3, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(image)).numpy()
    for name, more in (("script.pt", shape), ("program.pt2", ["--trust"]), ("pickle.pt", ["--trust", *shape])):
        outcome = invoke("export", tmp_path / name, *out, *more)
        assert outcome.code == 0, (name, outcome)
        (given,) = onnx.load(tmp_path / "m.onnx").graph.input
        np.testing.assert_allclose(answers(tmp_path / "m.onnx", {given.name: image})[0], expected, atol=1e-5)


@DEPRECATED
def test_torchscript_that_touches_files_needs_trust(refused: Invoke, tmp_path: Path) -> None:
    class Writes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, "somewhere.bin")
            return x

    torch.jit.script(Writes()).save(tmp_path / "w.pt")
    refused(3, ["export", tmp_path / "w.pt", "-o", tmp_path / "m.onnx", "--input", "x:float32[N,3]"], "--trust", "save")


@pytest.mark.parametrize(
    ("code", "arguments", "words"),
    [
        (3, [f"{NETS}failing"], ("FileNotFoundError: no weights at weights.bin", "torch_nets.py", "in failing")),
        (3, [f"{NETS}no_module"], ("int", "torch.nn.Module")),
        (3, [f"{NETS}cnnn"], ("did you mean 'cnn'",)),
        (2, [f"{NETS}cnn_alone"], ("--input", "image")),
        (2, [f"{NETS}cnn_alone", "--input", "image:float33[N,3,8,8]"], ("float32",)),
        (2, [f"{NETS}cnn_alone", "--input", "image float32"], ("NAME:DTYPE[AXES]",)),
        (2, [f"{NETS}tagger", "--input", "words:int64[N,T]", "--input", "maks:float32[N,T]"], ("'mask'",)),
        (3, [f"{NETS}cnn_alone", "--input", "image:float32[N,4,8,8]"], ("channels", "float32")),
        (2, [f"{NETS}cnn", "--exporter", "torch"], ("'torch.export'",)),
        (3, [f"{NETS}spectrum"], ("no exporter can write this model", "eigvals")),
        (3, ["no_such_module:make"], ("no_such_module",)),
        (3, ["notthere.pt2"], ("no such file",)),
        (3, ["tests/cli"], ("the folder holds no model",)),
    ],
)
def test_bad_sources(code: int, arguments: list[str], words: tuple[str, ...], refused: Invoke, tmp_path: Path) -> None:
    refused(code, ["export", *arguments, "-o", tmp_path / "m.onnx", "--threads", 1], *words)


def test_bad_places(refused: Invoke, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    (tmp_path / "m.onnx").write_bytes(b"a model")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    refused(2, ["export", f"{NETS}cnn"], "-o")
    refused(3, ["export", f"{NETS}cnn", "-o", tmp_path / "none" / "o.onnx"], "folder does not exist")
    refused(3, ["export", tmp_path / "modle.pt2", "-o", tmp_path / "o.onnx"], "'model.pt2'")
    refused(3, ["export", tmp_path / "model.pt2", "-o", tmp_path / "o.onnx", "--trust"], "cannot read the program")
    refused(2, ["export", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx"], "ONNX model already")


def test_a_missing_package_is_named_with_its_extra(
    refused: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    before = contents(tmp_path)
    refused(3, ["export", tmp_path, "-o", tmp_path / "m.onnx"], "onnxopt[hf]", "transformers")
    assert contents(tmp_path) == before


def test_compare_takes_the_module_as_the_reference(invoke: Invoke, refused: Invoke, tmp_path: Path) -> None:
    module, out, data = Cnn().eval(), tmp_path / "m.onnx", tmp_path / "d.npz"
    assert invoke("export", f"{NETS}cnn", "-o", out, "--exporter", "torchscript", "--threads", 1).code == 0
    image = np.random.default_rng(2).standard_normal((12, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        labels = module(torch.from_numpy(image)).argmax(1).numpy()
    labels[0] = (labels[0] + 1) % 5
    np.savez(data, image=image, labels=labels)
    outcome = invoke("--json", "compare", f"{NETS}cnn", out, "--data", data, "--threads", 1)
    assert outcome.code == 0, outcome
    found = outcome.document["data"]["comparison"]
    assert found["metric"] == "top1" and found["reference_score"] == pytest.approx(11 / 12)
    assert found["drop"] == 0 and found["drift"][0]["max_abs"] < 1e-5
    refused(3, ["compare", f"{NETS}tagger", out, "--data", data], "tagger")


def test_a_folder_of_hugging_face(invoke: Invoke, refused: Invoke, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="make exporters installs it")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    module = transformers.BertModel(config).eval()
    module.save_pretrained(tmp_path / "bert")
    outcome = invoke("--json", "export", tmp_path / "bert", "-o", tmp_path / "m.onnx", "--threads", 1)
    assert outcome.code == 0, outcome
    assert "batch 2, length 32" in {row["case"] for row in outcome.document["data"]["parity"]}
    ids, mask = np.random.default_rng(0).integers(0, 60, (3, 9)), np.ones((3, 9), np.int64)
    mask[0, 5:] = 0
    with torch.no_grad():
        expected = module(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state.numpy()
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", feeds)[0], expected, atol=1e-5)
    document = json.loads((tmp_path / "bert" / "config.json").read_text())
    document["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "bert" / "config.json").write_text(json.dumps(document))
    refused(3, ["export", tmp_path / "bert", "-o", tmp_path / "m.onnx"], "classifier", "would be random")
