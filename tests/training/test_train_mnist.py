"""The demo's training script runs and repeats itself; the data and the model that ship are as described."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

MNIST = Path(__file__).parents[2] / "calibration_data" / "mnist"
SCRIPT = MNIST / "train_mnist_cnn.py"
QUICK = ["--epochs", "1", "--limit", "256", "--out"]
DATA_FILES = ("calibration.npz", "test.npz")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_mnist_cnn", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def torch_settings_kept() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def logits(model: Path, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": image})[0]


def parameter_count(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


# torch's own exporter still calls the deprecated name.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.usefixtures("torch_settings_kept")
def test_export_agrees_with_torch_and_a_second_run_repeats_it(script: ModuleType, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    network = script.main([*QUICK, str(first)])
    script.main([*QUICK, str(second)])

    for name in (*DATA_FILES, "mnist_cnn.onnx"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    image = np.load(first / "test.npz")["image"]
    for batch in (1, 7):
        with torch.inference_mode():
            expected = network(torch.from_numpy(image[:batch])).numpy()
        np.testing.assert_allclose(logits(first / "mnist_cnn.onnx", image[:batch]), expected, atol=1e-4)


def test_shipped_data_is_what_the_script_makes(script: ModuleType) -> None:
    train, test = script.load_splits()
    with np.load(MNIST / "test.npz") as shipped:
        np.testing.assert_array_equal(shipped["image"], test.image)
        np.testing.assert_array_equal(shipped["labels"], test.labels)
    with np.load(MNIST / "calibration.npz") as shipped:
        np.testing.assert_array_equal(shipped["image"], train.image[:512])
        np.testing.assert_array_equal(shipped["labels"], train.labels[:512])
    assert test.image.dtype == np.float32
    assert (test.image.min(), test.image.max()) == (0, 1)
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert np.bincount(train.labels).tolist() == [400] * 10


def test_shipped_model_is_accurate_small_and_names_no_machine() -> None:
    path = MNIST / "mnist_cnn.onnx"
    model = onnx.load(path)
    with np.load(MNIST / "test.npz") as test:
        predicted = logits(path, test["image"]).argmax(axis=1)
        assert (predicted == test["labels"]).mean() >= 0.985
    assert 0.5e6 <= parameter_count(model) <= 1.5e6
    assert path.stat().st_size <= 5e6
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    text = str(model)  # every string in the file: a path would show by its separator
    assert "/" not in text
    assert "\\" not in text
