"""Round trips of model files, external data, and what a save may remove."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxopt.core.io import content_hash, data_files, load, own_data_files, save, total_bytes
from onnxopt.core.tensors import read
from onnxopt.errors import ModelError, OutputError

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
m (float[N, 64] x) => (float[N, 64] y) {
  a = MatMul(x, w1)
  b = MatMul(a, w2)
  y = Add(b, bias)
}
"""


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w1": rng.standard_normal((64, 64), np.float32),
        "w2": rng.standard_normal((64, 64), np.float32),
        "bias": rng.standard_normal(64, np.float32),
    }


def proto(seed: int = 0) -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights(seed).items())
    return model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "m.onnx"
    path.write_bytes(proto().SerializeToString())
    return path


def values(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_round_trip_keeps_everything(file: Path, tmp_path: Path) -> None:
    model = load(file)
    model.metadata_props["key"] = "value"
    save(model, tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    for name, array in weights().items():
        np.testing.assert_array_equal(values(tmp_path / "out.onnx")[name], array)
    assert load(tmp_path / "out.onnx").metadata_props["key"] == "value"
    save(load(tmp_path / "out.onnx"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_weights_above_the_threshold_go_to_a_file_named_by_its_content(file: Path, tmp_path: Path) -> None:
    model, output = load(file), tmp_path / "out.onnx"
    size = total_bytes(model)
    save(model, output, threshold=size)
    assert names(tmp_path) == ["in", "out.onnx"], "the threshold itself still fits"
    save(model, output, threshold=size - 1)
    data = next(p for p in tmp_path.iterdir() if p.suffix == ".data")
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert data.name == f"out.{digest[:16]}.data"
    assert data_files(output) == (output, data) and own_data_files(output) == {data}
    for name, array in weights().items():
        np.testing.assert_array_equal(values(output)[name], array)
    tensors = {t.name: t for t in onnx.load(output, load_external_data=False).graph.initializer}
    assert tensors["bias"].data_location != TensorProto.EXTERNAL, "small tensors stay in the model file"
    offsets = [int(e.value) for t in tensors.values() for e in t.external_data if e.key == "offset"]
    assert len(offsets) == 2 and all(offset % 64 == 0 for offset in offsets)


def test_the_model_stays_usable_after_it_was_saved(file: Path, tmp_path: Path) -> None:
    model = load(file)
    save(model, tmp_path / "out.onnx", threshold=0)
    tensor = model.graph.initializers["w1"].const_value
    assert tensor is not None and not isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(read(tensor), weights()["w1"])


def test_a_new_save_removes_the_data_file_of_the_old_one(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    save(load(file), output, threshold=0)
    old = set(own_data_files(output))
    file.write_bytes(proto(seed=1).SerializeToString())
    save(load(file), output, threshold=0)
    new = own_data_files(output)
    assert old.isdisjoint(new) and names(tmp_path) == sorted(["in", "out.onnx", *(p.name for p in new)])
    save(load(file), output, threshold=0)
    assert own_data_files(output) == new, "the same weights keep their file"
    save(load(file), output)
    assert names(tmp_path) == ["in", "out.onnx"]


def test_a_model_saved_over_its_own_data_stays_whole(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    save(load(file), output, threshold=0)
    model = load(output)
    model.graph.initializers["w1"].const_value = ir.tensor(np.zeros((64, 64), np.float32), name="w1")
    save(model, output, threshold=0)
    np.testing.assert_array_equal(values(output)["w2"], weights()["w2"])
    assert not values(output)["w1"].any()


def test_data_files_that_others_have_named_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    onnx.save_model(proto(), output, save_as_external_data=True, location="precious.bin", size_threshold=0)
    save(load(output), output)
    assert names(tmp_path) == ["out.onnx", "precious.bin"]


def test_a_data_file_of_another_model_is_kept(file: Path, tmp_path: Path) -> None:
    save(load(file), tmp_path / "a.onnx", threshold=0)
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    save(load(file), tmp_path / "b.onnx")
    np.testing.assert_array_equal(values(tmp_path / "a.onnx")["w1"], weights()["w1"])


@pytest.mark.parametrize("threshold", [0, 10**9])
def test_a_link_is_followed_and_kept(threshold: int, file: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.onnx").symlink_to("real/model.onnx")
    save(load(file), tmp_path / "link.onnx", threshold=threshold)
    assert (tmp_path / "link.onnx").is_symlink() and not (tmp_path / "real" / "model.onnx").is_symlink()
    np.testing.assert_array_equal(values(tmp_path / "real" / "model.onnx")["w1"], weights()["w1"])
    assert names(tmp_path) == ["in", "link.onnx", "real"]


def test_a_failed_save_leaves_the_old_pair(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.onnx"
    save(load(file), output, threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    file.write_bytes(proto(seed=1).SerializeToString())
    model = load(file)
    real = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target == output:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OutputError, match="Input/output error"):
        save(model, output, threshold=0)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_content_hash_covers_the_data_file(file: Path, tmp_path: Path) -> None:
    assert content_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    onnx.save_model(proto(), tmp_path / "a.onnx", save_as_external_data=True, location="a.bin", size_threshold=0)
    before = content_hash(tmp_path / "a.onnx")
    data = bytearray((tmp_path / "a.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "a.bin").write_bytes(data)
    assert content_hash(tmp_path / "a.onnx") != before


def test_initializers_of_old_files_are_no_inputs(tmp_path: Path) -> None:
    for version, inputs in ((3, ["x"]), (4, ["x", "w1", "w2", "bias"])):
        model = proto()
        model.ir_version = version
        for tensor in model.graph.initializer:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            model.graph.input.append(info)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        loaded = load(tmp_path / "m.onnx")
        assert [v.name for v in loaded.graph.inputs] == inputs
        assert loaded.ir_version == 4 and set(loaded.graph.initializers) == {"w1", "w2", "bias"}


def test_sparse_initializers_become_dense(tmp_path: Path) -> None:
    model = proto()
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors[1:])
    values_ = numpy_helper.from_array(np.array([2.0, -3.0], np.float32), "w1")
    indices = numpy_helper.from_array(np.array([[0, 1], [63, 5]], np.int64), "w1_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values_, indices, [64, 64]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    tensor = load(tmp_path / "m.onnx").graph.initializers["w1"].const_value
    assert tensor is not None
    expected = np.zeros((64, 64), np.float32)
    expected[0, 1], expected[63, 5] = 2, -3
    np.testing.assert_array_equal(read(tensor), expected)


def test_both_spellings_of_the_default_domain_become_one(tmp_path: Path) -> None:
    model = proto()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 18))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert dict(load(tmp_path / "m.onnx").graph.opset_imports) == {"": 18}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../a.bin", "outside the model's folder"),
        ("location", "missing.bin", "missing"),
        ("length", "3", "wrong length"),
        ("offset", "999936", "wrong length"),
    ],
)
def test_damaged_references_are_refused(key: str, value: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.onnx"
    path.parent.mkdir()
    onnx.save_model(proto(), path, save_as_external_data=True, location="a.bin", size_threshold=0)
    (tmp_path / "a.bin").write_bytes((path.parent / "a.bin").read_bytes())
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[-1].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        load(path)
    assert "bias" in caught.value.where
