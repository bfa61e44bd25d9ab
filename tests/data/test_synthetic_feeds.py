"""Made-up feeds are accepted by real models in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxopt.core.query import TensorSpec
from onnxopt.data.synthetic import synthetic
from onnxopt.errors import DataError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def runner(text: str) -> Callable[[Mapping[str, np.ndarray]], bool]:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def accepts(feeds: Mapping[str, np.ndarray]) -> bool:
        try:
            session.run(None, dict(feeds))
        except Exception:
            return False
        return True

    return accepts


def anything(feeds: Mapping[str, np.ndarray]) -> bool:
    return True


def test_shapes_follow_symbols() -> None:
    specs = [
        TensorSpec("ids", I64, ("batch", "seq")),
        TensorSpec("attention_mask", I64, ("batch", "past + seq")),
        TensorSpec("past", F32, ("batch", 2, "past", 4)),
        TensorSpec("extra", F32, ("batch", "seq + 1", None)),
    ]
    data = synthetic(specs, anything, samples=3)
    assert data.synthetic and len(data) == 3 and data.source == "synthetic" and data.notes
    for sample in data:
        seq, past = sample.feeds["ids"].shape[1], sample.feeds["past"].shape[2]
        assert sample.feeds["ids"].shape[0] == 1
        assert sample.feeds["attention_mask"].shape == (1, past + seq)
        assert sample.feeds["extra"].shape[:2] == (1, seq + 1)
        mask = sample.feeds["attention_mask"]
        assert set(mask.ravel().tolist()) <= {0, 1} and mask[0, 0] == 1


def test_values_suit_their_dtype_and_differ_between_samples() -> None:
    specs = [
        TensorSpec("f", np.dtype(np.float16), ("N", 64)),
        TensorSpec("i", np.dtype(np.int32), ("N", 64)),
        TensorSpec("u", np.dtype(np.uint8), ("N", 64)),
        TensorSpec("b", np.dtype(np.bool_), ("N",)),
        TensorSpec("s", np.dtype(np.str_), ("N", 2)),
        TensorSpec("scalar", F32, ()),
    ]
    one, two = synthetic(specs, anything, samples=2)
    assert [a.dtype.kind for a in one.feeds.values()] == list("fiubUf") and one.feeds["f"].dtype == np.float16
    assert one.feeds["i"].min() >= 0 and one.feeds["i"].max() < 10 and one.feeds["u"].max() > 100
    assert one.feeds["b"].all() and set(one.feeds["s"].ravel()) == {"a"} and one.feeds["scalar"].shape == ()
    assert not np.array_equal(one.feeds["f"], two.feeds["f"])


def test_same_seed_same_data() -> None:
    spec = [TensorSpec("x", F32, ("N", 4))]
    first, again, other = (synthetic(spec, anything, seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    np.testing.assert_array_equal(first[3].feeds["x"], again[3].feeds["x"])
    np.testing.assert_array_equal(first[3].feeds["x"], first.take([3])[0].feeds["x"])


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (  # a fixed inner size that the input does not state
            TensorSpec("x", F32, ("N", "W")),
            "(float[N, W] x) => (float[N, 2] y) <float[64, 2] w = {}> {{ y = MatMul(x, w) }}".format(
                "{" + ", ".join(["1.0"] * 128) + "}"
            ),
        ),
        (  # channels and sizes all open
            TensorSpec("x", F32, (None, None, None, None)),
            "(float[n, c, h, w] x) => (float[n, k, p, q] y)"
            " <float[1, 3, 9, 9] w = {" + ", ".join(["1.0"] * 243) + "}> { y = Conv(x, w) }",
        ),
        (  # tokens of a tiny vocabulary
            TensorSpec("ids", I64, ("N", "T")),
            "(int64[N, T] ids) => (float[N, T, 1] y) <float[2, 1] w = {1.0, 2.0}> { y = Gather(w, ids) }",
        ),
        (  # the first dimension is no batch
            TensorSpec("x", F32, ("T",)),
            "(float[T] x) => (float[2, k] y) <int64[2] s = {2, -1}> { y = Reshape(x, s) }",
        ),
        (TensorSpec("x", F32, None), "(float[1] x) => (float[1] y) { y = Relu(x) }"),
    ],
)
def test_guesses_make_real_models_run(spec: TensorSpec, text: str) -> None:
    accepts = runner(text)
    data = synthetic([spec], accepts, samples=2)
    assert len(data) == 2 and all(accepts(sample.feeds) for sample in data)


def test_models_without_inputs_get_an_empty_feed() -> None:
    data = synthetic([], anything)
    assert [dict(sample.feeds) for sample in data] == [{}]


def test_no_guess_fits() -> None:
    with pytest.raises(DataError, match=r"x: float32 \(N, W\)[\s\S]*--data"):
        synthetic([TensorSpec("x", F32, ("N", "W"))], lambda feeds: False)
    with pytest.raises(DataError, match="not a tensor"):
        synthetic([TensorSpec("x", None, None)], anything)


def test_many_free_dimensions_stay_small() -> None:
    sizes: list[int] = []

    def accepts(feeds: Mapping[str, np.ndarray]) -> bool:
        sizes.append(feeds["x"].size)
        return False

    with pytest.raises(DataError):
        synthetic([TensorSpec("x", F32, tuple("abcdefgh"))], accepts)
    assert sizes and max(sizes) <= 1 << 22
