"""What ONNX Runtime makes of packed weights, against what our own code says that they stand for."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxopt.quantization.weight_only.blocks import BLOCK_SIZES, BlockGrid, Blocks, pack, split, stored_bytes
from onnxopt.quantization.weight_only.gptq import gptq
from onnxopt.quantization.weight_only.kernels import attributes, constants, operator
from onnxopt.quantization.weight_only.rounding import hqq, rtn

GRIDS = [BlockGrid(bits, size, symmetric) for bits in (4, 8) for size in BLOCK_SIZES for symmetric in (False, True)]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def executed(kind: str, blocks: Blocks, x: np.ndarray, folder, **changes: int) -> np.ndarray:
    """What ONNX Runtime's own kernel makes of the packed weights."""
    values = [numpy_helper.from_array(array, name) for name, array in constants(kind, blocks).items()]
    names = [v.name for v in values]
    inputs = [names[0], "x", *names[1:]] if kind == "table" else ["x", *names]
    own = {a.name: a.as_int() for a in attributes(kind, blocks)} | changes
    node = helper.make_node(operator(kind), inputs, ["y"], domain="com.microsoft", **own)
    entry = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", [entry], [result], values), opset_imports=opsets, ir_version=8
    )
    onnx.save(model, folder / "m.onnx")
    return ort.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("columns", [256, 300, 37])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_runtime_multiplies_with_the_weights_that_the_codes_stand_for(grid, columns, tmp_path) -> None:
    blocks = rtn(normal(24, columns), grid)
    weights = executed("product", blocks, np.eye(columns, dtype=np.float32), tmp_path, accuracy_level=1)
    np.testing.assert_allclose(weights.T, blocks.dequantized(), rtol=1e-5, atol=1e-6)
    x = normal(3, columns, seed=1)
    fast, exact = executed("product", blocks, x, tmp_path), x @ blocks.dequantized().T
    assert np.abs(fast - exact).max() < 0.03 * np.abs(exact).max(), "activations are rounded to 8 bits"


@pytest.mark.parametrize("columns", [256, 300, 38])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_runtime_looks_up_the_entries_that_the_codes_stand_for(grid, columns, tmp_path) -> None:
    blocks = rtn(normal(24, columns), grid)
    found = executed("table", blocks, np.array([[3, 23], [-1, 0]]), tmp_path)
    np.testing.assert_allclose(found, blocks.dequantized()[[[3, 23], [-1, 0]]], rtol=1e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from(GRIDS), st.sampled_from([1e-30, 1e-3, 1.0, 1e20]))
def test_no_weight_moves_by_more_than_a_step(seed, columns, grid, size) -> None:
    weight = np.random.default_rng(seed).standard_normal((3, columns)).astype(np.float32) * np.float32(size)
    blocks = rtn(weight, grid)
    step = np.repeat(np.abs(blocks.scale), grid.block_size, axis=1)[:, :columns]
    assert (np.abs(blocks.dequantized() - weight) <= step * 1.01 + 1e-37).all()
    assert np.isfinite(hqq(weight, grid).dequantized()).all()


@pytest.mark.parametrize(
    "algorithm", [rtn, hqq, lambda w, g: gptq(w, np.eye(w.shape[1]), g)], ids=["rtn", "hqq", "gptq"]
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_and_constants_are_exact(algorithm, symmetric) -> None:
    weight = np.zeros((4, 40), np.float32)
    weight[1], weight[2] = 0.75, -3.0
    found = algorithm(weight, BlockGrid(4, 16, symmetric)).dequantized()
    np.testing.assert_allclose(found, weight, rtol=1e-6)
    assert (found[[0, 3]] == 0).all()


def test_hqq_beats_rounding_to_nearest_on_heavy_tails() -> None:
    weight = np.random.default_rng(0).standard_t(3, (128, 512)).astype(np.float32)
    x = normal(512, 512, seed=1)
    for grid in (BlockGrid(4, 32), BlockGrid(4, 128)):
        errors = [np.abs(f(weight, grid).dequantized() - weight) for f in (rtn, hqq)]
        norms = [float((e**0.7).sum()) for e in errors]
        assert norms[1] < 0.97 * norms[0]
        assert np.median(errors[1]) < 0.95 * np.median(errors[0])
    grid = BlockGrid(4, 32)
    wanted = x @ weight.T
    near, half = (float(((x @ f(weight, grid).dequantized().T - wanted) ** 2).sum()) for f in (rtn, hqq))
    assert half < near


def correlated(samples: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    mix = rng.standard_normal((columns, columns)) / np.sqrt(columns) * np.linspace(0.05, 3, columns)
    return (rng.standard_normal((samples, columns)) @ mix).astype(np.float32)


@pytest.mark.parametrize("grid", [BlockGrid(4, 32), BlockGrid(4, 128, True), BlockGrid(8, 64)], ids=str)
def test_gptq_beats_the_others_on_correlated_inputs_that_it_has_not_seen(grid) -> None:
    weight, x = normal(64, 200), correlated(3000, 200)
    seen, unseen = x[:2000], x[2000:]
    made = [rtn(weight, grid), hqq(weight, grid), gptq(weight, seen.T @ seen, grid)]
    errors = [float(((unseen @ (b.dequantized() - weight).T) ** 2).sum()) for b in made]
    assert errors[2] < 0.6 * min(errors[:2])


def test_gptq_takes_inputs_that_are_few_or_always_zero_and_declines_those_that_say_nothing() -> None:
    weight, grid = normal(8, 48), BlockGrid(4, 16)
    x = correlated(3, 48)
    x[:, 10:20] = 0
    found = gptq(weight, x.T @ x, grid)
    assert found is not None
    step = np.repeat(np.abs(found.scale), 16, axis=1)
    assert (np.abs(found.dequantized() - weight)[:, 10:20] <= step[:, 10:20] * 0.51).all(), "unused columns are kept"
    assert gptq(weight, np.zeros((48, 48)), grid) is None
    assert gptq(weight, np.full((48, 48), np.nan), grid) is None


def test_sizes_are_those_of_the_arrays() -> None:
    for grid in GRIDS:
        for rows, columns in ((24, 300), (5, 16)):
            arrays = constants("product", rtn(normal(rows, columns), grid)).values()
            assert stored_bytes(rows, columns, grid) == sum(a.nbytes for a in arrays)


def test_codes_lie_low_half_first_and_odd_rows_are_filled_up() -> None:
    assert pack(np.array([[1, 2, 15]], np.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert split(np.ones((1, 3), np.float32), 16).sum() == 3


@pytest.mark.parametrize(("bits", "size"), [(3, 32), (4, 24), (8, 512)])
def test_a_grid_without_kernels_is_no_grid(bits, size) -> None:
    with pytest.raises(ValueError, match="not supported"):
        BlockGrid(bits, size)
