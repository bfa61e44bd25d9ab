"""INT8 as NNCF makes it: `nncf.quantize` with its defaults, or with `model_type=TRANSFORMER` (which has SmoothQuant).

`per-tensor`, `transformer-per-tensor`: asymmetric activations with one scale each, by its advanced parameters. Its
defaults, made for OpenVINO, give some activations a scale for each channel, which ONNX Runtime does not fuse.
"""

from pathlib import Path

from benchmarks.peers.feeds import read
from benchmarks.peers.prepare import raise_opset


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`."""
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
    from nncf.quantization.advanced_parameters import QuantizationMode as Mode

    raised, opset = raise_opset(model, folder / "raised.onnx")
    feeds = list(read(data))
    options: dict[str, object] = {}
    if config.startswith("transformer"):
        options["model_type"] = nncf.ModelType.TRANSFORMER
    if config.endswith("per-tensor"):
        scheme = QuantizationParameters(mode=Mode.ASYMMETRIC, per_channel=False)
        options["advanced_parameters"] = AdvancedQuantizationParameters(activations_quantization_params=scheme)
    onnx.save(nncf.quantize(onnx.load(raised), nncf.Dataset(feeds), subset_size=len(feeds), **options), output)
    return {"opset": opset}
