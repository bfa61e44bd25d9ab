"""Calibration on a real Ray cluster of this machine: the same bits, and errors in three parts."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onnxopt.errors import DataError, InputError, MissingExtraError
from tests.quantization.test_calibrate import data, found, model  # noqa: F401

ray_needed = pytest.mark.ray
HERE = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def ray(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)
    return pytest.importorskip("ray")


@ray_needed
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bits(ray, model, data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ONNXOPT_CACHE", "")
    monkeypatch.setattr("onnxopt.quantization.ranges.ray_shards.CHUNK_SAMPLES", 2)
    expected = found(model, data, tmp_path / "a")
    unpicklable = replace(data, read=lambda i: data.read(i))
    assert found(model, unpicklable, tmp_path / "b", ray="local") == expected
    assert not ray.is_initialized()
    ray.init(address="local", num_cpus=2)
    try:
        assert found(model, data, tmp_path / "c", ray="auto", workers=2) == expected
        with pytest.raises(DataError, match="does not run on this input") as raised:
            broken = replace(data, read=lambda i: replace(data.read(i), feeds={"x": data.read(i).feeds["x"][..., :3]}))
            found(model, broken, tmp_path / "d", ray="auto")
        assert raised.value.fix
        monkeypatch.setattr("onnxopt.quantization.ranges.ray_shards.RETRIES", 1)
        monkeypatch.setattr("onnxopt.quantization.ranges.ray_shards._calibrate", lambda *a: os._exit(1))
        with pytest.raises(DataError, match="WorkerCrashedError"):
            found(model, data, tmp_path / "e", ray="auto")
    finally:
        ray.shutdown()


@ray_needed
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_is_not_there_is_an_input_error(ray, model, data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ONNXOPT_CACHE", "")
    monkeypatch.setenv("RAY_gcs_rpc_server_connect_timeout_s", "1")
    with pytest.raises(InputError, match="cannot be used"):
        found(model, data, tmp_path / "a", ray="nonsense://")


def test_without_ray_the_extra_is_named(model, data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ONNXOPT_CACHE", "")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"onnxopt\[ray\]"):
        found(model, data, tmp_path / "a", ray="local")
