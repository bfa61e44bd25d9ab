"""INT8 as ONNX Runtime's own quantizer makes it, after its own pre-processing.

`minmax`, `percentile`: QDQ, U8 activations, S8 weights per channel, what its documentation advises for x86 with VNNI.
`default`: `quantize_static` with no option. `dynamic`: `quantize_dynamic`, S8 weights per channel.
"""

from pathlib import Path
from typing import Any

from benchmarks.peers.feeds import Batches
from benchmarks.peers.prepare import prepare


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`; return what the preparation did."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static

    prepared, done = prepare(model, folder)
    if config == "dynamic":
        quantize_dynamic(prepared, output, per_channel=True, weight_type=QuantType.QInt8)
        return done
    options: dict[str, Any] = {}
    if config != "default":
        methods = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
        options = {
            "quant_format": QuantFormat.QDQ,
            "per_channel": True,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "calibrate_method": methods[config],
        }
    quantize_static(prepared, output, Batches(data), **options)
    return done
