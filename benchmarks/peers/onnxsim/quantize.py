"""INT8 as onnxsim makes it, after `simplify`.

`static`: MatMul, Gemm and Conv; `full`: every activation (`full_graph`); `full-auto`: ranges by its own choice for each
tensor; `dynamic`: `quantize_dynamic_matmul_integer_to_float`.
"""

from pathlib import Path

from benchmarks.peers.feeds import read
from benchmarks.peers.prepare import raise_opset


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`."""
    import onnx
    import onnxsim

    raised, opset = raise_opset(model, folder / "raised.onnx")
    simple, _ = onnxsim.simplify(onnx.load(raised))
    if config == "dynamic":
        onnx.save(onnxsim.quantize_dynamic_matmul_integer_to_float(simple), output)
        return {"opset": opset}
    options = {"static": {}, "full": {"full_graph": True}, "full-auto": {"full_graph": True, "method": "auto"}}[config]
    onnx.save(onnxsim.quantize_static(simple, list(read(data)), **options), output)
    return {"opset": opset}
