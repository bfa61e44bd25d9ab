"""One pass over the data, however it is shared, kept and read again: the same statistics bit for bit."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt.core.cache import user_folder
from onnxopt.core.io import load
from onnxopt.core.query import input_specs
from onnxopt.data.dataset import Dataset
from onnxopt.data.npz import open_npz_folder
from onnxopt.errors import DataError
from onnxopt.passes.base import Context
from onnxopt.quantization.ranges import cache, shards
from onnxopt.quantization.ranges.calibrate import calibrate
from onnxopt.quantization.ranges.collect import statistics
from onnxopt.quantization.select import place, quantizable
from onnxopt.quantization.static import StaticQuantize
from onnxopt.run.target import Target

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,T,8] x) => (float[N,T,8] z) {
    a = MatMul(x, w)  r = Relu(a)  z = MatMul(r, w) }"""


@pytest.fixture
def model(tmp_path: Path, rng):
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    return load(tmp_path / "m.onnx")


@pytest.fixture
def data(tmp_path: Path, model, rng) -> Dataset:
    """Samples of different lengths, an empty one and one whose products are not finite among them."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for index, length in enumerate((3, 1, 0, 7, 2, 5)):
        x = rng.standard_normal((1, length, 8)).astype(np.float32)
        if index == 4:
            x[0, 0] = 3e38  # overflows in the first MatMul
        np.savez(folder / f"{index}.npz", x=x)
    source = open_npz_folder(folder, input_specs(model), "labels")
    return Dataset("samples", source.read, tuple(range(source.count)), source.digest, False)


def context(folder: Path, data: Dataset, **options) -> Context:
    folder.mkdir(exist_ok=True)
    return Context(folder, data, Target(threads=1), **options)


def found(model, data, folder: Path, *, histograms=True, **options):
    return statistics(model, quantizable(model), data, context(folder, data, **options), histograms=histograms)


def test_order_does_not_matter(model, data, tmp_path):
    names, target = quantizable(model), Target(threads=1)
    first = calibrate(model, names, data, target, tmp_path, histograms=True)
    assert set(first) == {"x", "r"}
    assert calibrate(model, names, data.take([5, 3, 1, 0, 2, 4]), target, tmp_path, histograms=True) == first
    assert first["x"].samples == 5, "the empty sample has no smallest value"
    assert [first[n].range.finite for n in ("x", "r")] == [True, False]


def test_processes_give_the_same_bits(model, data, tmp_path):
    assert found(model, data, tmp_path / "b", workers=3) == found(model, data, tmp_path / "a")
    assert found(model, data, tmp_path / "c", workers=64) == found(model, data, tmp_path / "a")


def test_an_error_in_a_process_is_the_same_error(model, data, tmp_path):
    wrong = replace(data, order=(0, 99))
    with pytest.raises(DataError, match="worker ended with exit code 1: IndexError"):
        found(model, wrong, tmp_path / "a", workers=2)


def test_a_killed_process_is_reported_and_the_others_end(model, data, tmp_path, monkeypatch):
    started = []
    start = shards._start

    def killed(job):
        process = start(job)
        started.append(process)
        if len(started) == 2:
            threading.Timer(0, os.kill, (process.pid, signal.SIGKILL)).start()
        return process

    monkeypatch.setattr(shards, "_start", killed)
    with pytest.raises(DataError, match="killed by signal 9"):
        found(model, data, tmp_path / "a", workers=3)
    assert all(process.returncode is not None for process in started)


def test_data_that_only_this_process_can_read_need_one_worker(model, data, tmp_path):
    with pytest.raises(DataError, match="cannot be read in other processes"):
        found(model, replace(data, read=lambda i: data.read(i)), tmp_path / "a", workers=2)


class Unreadable:
    """Samples that must not be needed."""

    def __call__(self, index: int):
        raise AssertionError("the data were read again")


def unreadable(data: Dataset) -> Dataset:
    return replace(data, read=Unreadable())


def test_a_second_run_reads_the_statistics_of_the_first(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXOPT_CACHE", str(tmp_path / "cache"))
    first = found(model, data, tmp_path / "a")
    assert found(model, unreadable(data), tmp_path / "b") == first
    assert found(model, unreadable(data), tmp_path / "c", histograms=False).keys() == first.keys()


def test_ranges_alone_do_not_stand_in_for_histograms_but_are_replaced_by_them(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXOPT_CACHE", str(tmp_path / "cache"))
    ranges = found(model, data, tmp_path / "a", histograms=False)
    full = found(model, data, tmp_path / "b")
    assert full["x"].histogram is not None
    assert full["x"].range == ranges["x"].range
    assert found(model, unreadable(data), tmp_path / "c") == full


def test_other_data_or_another_model_are_not_mistaken(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXOPT_CACHE", str(tmp_path / "cache"))
    first = found(model, data, tmp_path / "a")
    assert found(model, data.take([0, 1]), tmp_path / "b") != first
    proto = onnx.load(tmp_path / "m.onnx")
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.eye(8, dtype=np.float32), "w"))
    onnx.save(proto, tmp_path / "other.onnx")
    assert found(load(tmp_path / "other.onnx"), data, tmp_path / "c")["r"] != first["r"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not an archive", None])
def test_a_damaged_entry_is_replaced(model, data, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("ONNXOPT_CACHE", str(tmp_path / "cache"))
    first = found(model, data, tmp_path / "a")
    (entry,) = (tmp_path / "cache" / "statistics").iterdir()
    sound = entry.read_bytes()
    entry.write_bytes(sound[: len(sound) // 2] if damage is None else damage)
    assert found(model, data, tmp_path / "b") == first
    assert found(model, unreadable(data), tmp_path / "c") == first


def test_a_cache_that_cannot_be_written_is_no_error(model, data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    expected = found(model, data, tmp_path / "a")
    for place_of_cache in (tmp_path / "file", Path("/proc/none")):
        monkeypatch.setenv("ONNXOPT_CACHE", str(place_of_cache))
        assert found(model, data, tmp_path / f"b{len(str(place_of_cache))}") == expected


def test_the_folder_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXOPT_CACHE", "")
    assert user_folder(cache.KIND) == ()
    monkeypatch.delenv("ONNXOPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder(cache.KIND) == (tmp_path / "onnxopt" / "statistics",)


def test_one_pass_serves_candidates_that_differ_in_nodes_and_calibrators(lab, rng):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,8,4,4] z) {
        a = Conv <pads=[1,1,1,1]> (x, w3)  r = Relu(a)  p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (r)
        z = Conv <pads=[1,1,1,1]> (p, w) }"""
    arrays = {"w3": rng.standard_normal((8, 3, 3, 3)), "w": rng.standard_normal((8, 8, 3, 3))}
    model = lab.build(text, **{n: a.astype(np.float32) for n, a in arrays.items()})
    feeds = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    stem = next(n for n in model.graph if n.op_type == "Conv")
    wanted = {v.name for p in (place(model), place(model, {stem: "excluded"})) for v in p.grid_of.values()}
    assert wanted == set(quantizable(model))
    assert lab.run(StaticQuantize(), model.clone(), feeds).changes == 2
    assert lab.run(StaticQuantize(float_stem=True, calibrator="entropy"), model.clone(), feeds).changes == 1
    assert len(list((lab.folder / "statistics").iterdir())) == 1
