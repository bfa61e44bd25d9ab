"""INT8 as AMD Quark makes it: QDQ, U8 activations, S8 weights per channel, cross-layer equalization as by default.

`minmax`, `percentile` (its preset `U8S8_AAWS`, per channel), `smooth`: min-max after its SmoothQuant.
"""

from pathlib import Path

from benchmarks.peers.feeds import Batches
from benchmarks.peers.prepare import raise_opset


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
    from quark.onnx import ModelQuantizer, QuantizationConfig
    from quark.onnx.quantization.config.config import Config

    raised, opset = raise_opset(model, folder / "raised.onnx")
    percentile = config == "percentile"
    scheme = QuantizationConfig(
        calibrate_method=CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        include_sq=config == "smooth",
        extra_options={"ForceQuantizeNoInputCheck": True} if percentile else {},
    )
    quantizer = ModelQuantizer(Config(global_quant_config=scheme))
    quantizer.quantize_model(str(raised), str(output), Batches(data))
    return {"opset": opset}
