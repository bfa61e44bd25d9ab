"""The models that onnx ships with inputs and expected outputs, and how to run them on ONNX Runtime's CPU provider."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime as ort

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
NUMPY_LACKS = {"bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}


@dataclass(frozen=True)
class Case:
    """One model with its data sets: pairs of inputs and expected outputs, in the order of the model's."""

    name: str
    model: onnx.ModelProto
    data_sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float


def cases(kind: str) -> Iterator[Case]:
    """The cases of one kind; those that need a download are not there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind=kind)
    for case in sorted(found, key=lambda case: case.name):
        if case.model is not None:
            yield Case(case.name, case.model, case.data_sets, case.rtol, case.atol)
        elif case.model_dir is not None:
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            yield Case(case.name, model, list(_stored(folder, model)), case.rtol, case.atol)


def run(path: Path, case: Case) -> list[list[Any]]:
    """The outputs for each data set, with all of the runtime's graph optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    results = []
    for inputs, _ in case.data_sets:
        feeds = {i.name: _feedable(value) for i, value in zip(session.get_inputs(), inputs, strict=False)}
        results.append(session.run(None, feeds))
    return results


def difference(case: Case, results: list[list[Any]]) -> str | None:
    """What is wrong with the results, ``None`` when they are the expected ones within the case's tolerance."""
    for (_, expected), found in zip(case.data_sets, results, strict=True):
        if len(expected) != len(found):
            return f"{len(found)} outputs instead of {len(expected)}"
        for want, have in zip(expected, found, strict=True):
            try:
                _compare(want, have, case)
            except AssertionError as error:
                return " ".join(str(error).split())[:300]
    return None


def _compare(want: Any, have: Any, case: Case) -> None:
    if isinstance(want, list):
        assert isinstance(have, list) and len(want) == len(have)
        for a, b in zip(want, have, strict=True):
            _compare(a, b, case)
        return
    if want is None:
        assert have is None
        return
    want, have = _array(want), np.asarray(have)
    if want.dtype.kind in "OUS":
        np.testing.assert_array_equal(want.astype(str), have.astype(str))
        return
    if want.dtype.isbuiltin != 1 and have.dtype.kind == "u":  # Python sees the bits of such a type
        have = have.view(want.dtype)
    assert want.shape == have.shape, f"shape {have.shape} instead of {want.shape}"
    assert want.dtype == have.dtype, f"type {have.dtype} instead of {want.dtype}"
    if want.dtype.isbuiltin != 1:
        want, have = want.astype(np.float32), have.astype(np.float32)
    np.testing.assert_allclose(have, want, rtol=case.rtol, atol=case.atol)


def _array(value: Any) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _feedable(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_array(item) for item in value]
    array = _array(value)
    if array.dtype.name in NUMPY_LACKS:
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(f"u{array.dtype.itemsize}"), kind)
    return array


def _stored(folder: Path, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    for data_set in sorted(folder.glob("test_data_set_*")):
        sides = []
        for side, values in (("input", model.graph.input), ("output", model.graph.output)):
            count = len(list(data_set.glob(f"{side}_*.pb")))
            sides.append([_proto(data_set / f"{side}_{n}.pb", values[n].type) for n in range(count)])
        yield sides[0], sides[1]


def _proto(path: Path, kind: onnx.TypeProto) -> Any:
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    if kind.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data))
