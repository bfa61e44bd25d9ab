"""``module:function`` and ``test_data_set_*`` folders."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxopt.core.query import TensorSpec
from onnxopt.data.sources import open_dataset
from onnxopt.errors import DataError

F32 = np.dtype(np.float32)
VECTOR = TensorSpec("x", F32, ("N", 2))
PAIR = [VECTOR, TensorSpec("text", np.dtype(np.str_), ("N",))]
MODULES = (f"user_data_{i}" for i in itertools.count())


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module with a body for ``def feeds():`` into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write_module(body: str) -> str:
        name = next(MODULES)
        source = "import numpy as np\nimport itertools\n\ndef feeds():\n" + textwrap.indent(
            textwrap.dedent(body), "    "
        )
        (tmp_path / f"{name}.py").write_text(source)
        return f"{name}:feeds"

    return write_module


def test_function_is_read_again_and_in_any_order(write) -> None:
    path = write("""
        for i in range(4):
            yield {"x": np.full((1, 2), i, np.float32)}, i
    """)
    data = open_dataset(path, [VECTOR])
    assert len(data) == 4 and data.has_labels and data.source == path
    for _ in range(2):
        assert [float(s.feeds["x"][0, 0]) for s in data] == [0, 1, 2, 3]
    assert data[2].labels.tolist() == [2]
    assert open_dataset(path, [VECTOR]).fingerprint() == data.fingerprint()


def test_function_may_be_endless_when_bounded(write) -> None:
    path = write("""
        for i in itertools.count():
            yield {"x": np.full((1, 2), i, np.float64)}
    """)
    data = open_dataset(path, [VECTOR], samples=3)
    assert [float(s.feeds["x"][0, 0]) for s in data] == [0, 1, 2] and data[0].feeds["x"].dtype == F32


def test_function_may_yield_strings_and_lists(write) -> None:
    data = open_dataset(write('return [{"x": [[1.0, 2.0]], "text": ["hello"]}]'), PAIR)
    assert data[0].feeds["text"].tolist() == ["hello"] and not data.has_labels


def test_spooled_samples_are_removed_at_exit(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text('import numpy\ndef f():\n    yield {"x": numpy.zeros((1, 2), "float32")}\n')
    (tmp_path / "spool").mkdir()
    code = """
import numpy, pathlib
from onnxopt.core.query import TensorSpec
from onnxopt.data.sources import open_dataset
data = open_dataset("endless:f", [TensorSpec("x", numpy.dtype("float32"), ("N", 2))])
print(len(list(pathlib.Path("spool").rglob("*.npz"))))
"""
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": "spool"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n" and not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "returned int, not an iterable"),
        ('return {"x": np.zeros((1, 2))}', "returned dict, not an iterable"),
        ("return []", "yields no sample"),
        ("yield np.zeros(3)", r"expected a dict of feeds[\s\S]*sample 0"),
        ("yield {}, 1, 2", "a tuple of 3"),
        ('yield {"y": np.zeros((1, 2))}', r"no array for input 'x'[\s\S]*sample 0"),
        ('yield {"x": np.zeros((1, 3))}', r"expected \(N, 2\), found \(1, 3\)"),
        ('yield {"x": np.full((1, 2), np.nan)}', "NaN in the data"),
        ('yield {"x": object()}', "Python object"),
        ('yield {"x": [[1], [1, 2]]}', "not an array"),
        ('yield {"x": np.zeros((1, 2))}\nraise KeyError("boom")', "failed at sample 1: KeyError: 'boom'"),
        ('yield {"x": np.zeros((1, 2))}, np.zeros(5)', r"labels \(5,\) do not match[\s\S]*sample 0"),
        ('yield {"x": np.zeros((1, 2))}, 0\nyield {"x": np.zeros((1, 2))}', "1 of 2 samples have labels"),
    ],
)
def test_functions_that_do_not_fit(write, body: str, message: str) -> None:
    path = write(body)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path, [VECTOR])
    assert path in caught.value.where


def test_functions_that_cannot_be_found(write, tmp_path: Path) -> None:
    module = write("return []").partition(":")[0]
    with pytest.raises(DataError, match=r"no function 'feed'[\s\S]*did you mean 'feeds'"):
        open_dataset(f"{module}:feed", [VECTOR])
    with pytest.raises(DataError, match="cannot import 'no_such_module'"):
        open_dataset("no_such_module:f", [VECTOR])
    (tmp_path / "broken_user_data.py").write_text("def f(:\n")
    with pytest.raises(DataError, match="cannot import 'broken_user_data': SyntaxError"):
        open_dataset("broken_user_data:f", [VECTOR])


def save_set(folder: Path, *arrays: np.ndarray, names: tuple[str, ...] = ("", "")) -> None:
    folder.mkdir(parents=True)
    for i, array in enumerate(arrays):
        tensor = numpy_helper.from_array(array, names[i])
        (folder / f"input_{i}.pb").write_bytes(tensor.SerializeToString())
    (folder / "output_0.pb").write_bytes(b"ignored")


def test_onnx_test_data(tmp_path: Path) -> None:
    for i in (0, 2, 10):
        x, text = np.full((1, 2), i, np.float32), np.array([f"t{i}"], dtype=object)
        save_set(tmp_path / f"test_data_set_{i}", x, text)
    data = open_dataset(str(tmp_path), PAIR)
    assert [float(s.feeds["x"][0, 0]) for s in data] == [0, 2, 10]
    assert data[2].feeds["text"].tolist() == ["t10"] and not data.has_labels
    one = open_dataset(str(tmp_path / "test_data_set_2"), PAIR)
    assert len(one) == 1 and one[0].feeds["x"][0, 0] == 2


def test_onnx_test_data_is_bound_by_name_where_the_names_are_the_model_s(tmp_path: Path) -> None:
    specs = [TensorSpec("a", F32, (1,)), TensorSpec("b", F32, (1,))]
    save_set(tmp_path / "test_data_set_0", np.float32([1]), np.float32([2]), names=("b", "a"))
    save_set(tmp_path / "test_data_set_1", np.float32([1]), np.float32([2]), names=("p", "q"))
    first, second = open_dataset(str(tmp_path), specs)
    assert (first.feeds["a"][0], second.feeds["a"][0]) == (2, 1)


def test_onnx_test_data_that_does_not_fit(tmp_path: Path) -> None:
    save_set(tmp_path / "test_data_set_0", np.zeros((1, 2), np.float32))
    with pytest.raises(DataError, match=r"1 input tensors for the 2 inputs[\s\S]*test_data_set_0"):
        open_dataset(str(tmp_path), PAIR)
    with pytest.raises(DataError, match=r"expected \(N, 3\), found \(1, 2\)"):
        open_dataset(str(tmp_path), [TensorSpec("x", F32, ("N", 3))])
    for content in (b"garbage", b"", onnx.TensorProto(data_type=1, dims=[4], raw_data=b"123").SerializeToString()):
        (tmp_path / "test_data_set_0" / "input_0.pb").write_bytes(content)
        with pytest.raises(DataError, match=r"where: .*input_0\.pb"):
            open_dataset(str(tmp_path), [VECTOR])
