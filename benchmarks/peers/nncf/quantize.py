"""INT8 as NNCF makes it: `nncf.quantize` with its defaults, or with `model_type=TRANSFORMER` (which has SmoothQuant).

`mixed`: the preset with asymmetric activations, which NNCF advises for other activations than ReLU.
"""

from pathlib import Path

from benchmarks.peers.feeds import read
from benchmarks.peers.prepare import raise_opset


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`."""
    import nncf
    import onnx

    raised, opset = raise_opset(model, folder / "raised.onnx")
    feeds = list(read(data))
    options = {
        "plain": {},
        "mixed": {"preset": nncf.QuantizationPreset.MIXED},
        "transformer": {"model_type": nncf.ModelType.TRANSFORMER},
    }[config]
    onnx.save(nncf.quantize(onnx.load(raised), nncf.Dataset(feeds), subset_size=len(feeds), **options), output)
    return {"opset": opset}
