"""Models that lost something: noisy weights, weights of 4 bits; and how often a classifier is right."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, version_converter

HERE = Path(__file__).parents[1]
MNIST = HERE.parent / "calibration_data" / "mnist"
ZOO = HERE / ".cache" / "zoo"
CALL = 64


def noisy(path: Path, output: Path, noise: float, *, seed: int) -> Path:
    model, rng = onnx.load(path), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            added = rng.standard_normal(array.shape).astype(np.float32) * array.std() * noise
            tensor.CopyFrom(numpy_helper.from_array(array + added, tensor.name))
    onnx.save(model, output)
    return output


def four_bits(path: Path, output: Path) -> Path:
    model = version_converter.convert_version(onnx.load(path), 21)
    model.ir_version = 10
    transposed = {
        n.input[1] for n in model.graph.node if n.op_type == "Gemm" and any(a.name == "transB" for a in n.attribute)
    }
    nodes = []
    for tensor in list(model.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.dtype != np.float32 or array.ndim < 2:
            continue
        axis = (
            0 if array.ndim > 2 or tensor.name in transposed else 1
        )  # of the outputs: Conv has them first, MatMul last
        others = tuple(i for i in range(array.ndim) if i != axis)
        scale = (np.abs(array).max(axis=others) / 7).clip(1e-8).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        codes = np.clip(np.round(array / scale.reshape(shape)), -8, 7).astype(np.int8)
        name = tensor.name
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(
            helper.make_tensor(f"{name}_codes", TensorProto.INT4, codes.shape, codes.ravel())
        )
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_codes", f"{name}_scale"], [name], axis=axis))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    onnx.save(model, output)
    return output


def labelled(path: Path = MNIST / "test.npz") -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as stored:
        return next(stored[k] for k in stored.files if k != "labels"), stored["labels"]


def logits(path: Path, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    step = taken.shape[0] if isinstance(taken.shape[0], int) else CALL
    return np.concatenate([session.run(None, {taken.name: x[i : i + step]})[0] for i in range(0, len(x), step)])


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def accuracy(path: Path, test: Path = MNIST / "test.npz") -> float:
    x, labels = labelled(test)
    return float((logits(path, x).argmax(1) == labels).mean())
