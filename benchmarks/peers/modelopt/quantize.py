"""INT8 as NVIDIA ModelOpt makes it: `modelopt.onnx.quantization.quantize`, calibration by `max` or `entropy`.

The rest of the model stays FP32 (its default is FP16, which ONNX Runtime's CPU provider runs through casts).
"""

from pathlib import Path

from benchmarks.peers.feeds import Batches
from benchmarks.peers.prepare import raise_opset


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`."""
    from modelopt.onnx.quantization import quantize as run

    raised, opset = raise_opset(model, folder / "raised.onnx")
    own = folder / "own.onnx"  # it writes files beside its input
    own.write_bytes(raised.read_bytes())
    run(
        str(own),
        quantize_mode="int8",
        calibration_method=config,
        calibration_data_reader=Batches(data),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(output),
    )
    return {"opset": opset}
