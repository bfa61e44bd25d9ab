import numpy as np
import onnx
from onnx import numpy_helper

from onnxopt.core.io import load, save
from onnxopt.core.names import has_unique_names, make_names_unique

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool c) => (float[2] y) {
    y = If (c) <then_branch = t () => (float[2] o) <float[2] w = {1, 2}> { a = Mul(x, w)  o = Neg(a) },
                else_branch = e () => (float[2] o) <float[2] w = {3, 4}> { a = Add(x, w)  o = Relu(a) }> }"""


def test_branches_that_use_the_same_names_compute_the_same_afterwards(tmp_path):
    import onnxruntime as ort

    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "before.onnx")
    model = load(tmp_path / "before.onnx")
    assert not has_unique_names(model)
    assert make_names_unique(model) == 3
    assert has_unique_names(model)
    save(model, tmp_path / "after.onnx")
    onnx.checker.check_model(tmp_path / "after.onnx", full_check=True)
    stored = onnx.load(tmp_path / "after.onnx").graph.node[0].attribute
    weights = {i.name: numpy_helper.to_array(i).tolist() for a in stored for i in a.g.initializer}
    assert sorted(weights.values()) == [[1, 2], [3, 4]]
    for c in (True, False):
        feeds = {"x": np.array([-1, 1], np.float32), "c": np.array(c)}
        results = [ort.InferenceSession(tmp_path / n).run(None, feeds)[0] for n in ("before.onnx", "after.onnx")]
        np.testing.assert_array_equal(*results)
    assert make_names_unique(model) == 0
