"""INT8 as ONNX Neural Compressor makes it: QDQ, U8 activations, S8 weights per channel, min-max; or SmoothQuant."""

from pathlib import Path

from benchmarks.peers.feeds import Batches
from benchmarks.peers.prepare import raise_opset


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`."""
    from onnx_neural_compressor import data_reader
    from onnx_neural_compressor.quantization import QuantFormat, QuantType
    from onnx_neural_compressor.quantization import config as configs
    from onnx_neural_compressor.quantization import quantize as run

    class Reader(Batches, data_reader.CalibrationDataReader):
        """It asks for its own base class."""

    raised, opset = raise_opset(model, folder / "raised.onnx")
    batches = Reader(data)
    scheme = configs.StaticQuantConfig(
        calibration_data_reader=batches,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        calibration_sampling_size=len(batches),
        extra_options={"SmoothQuant": True} if config == "smooth" else {},
    )
    run(raised, output, scheme)
    return {"opset": opset}
