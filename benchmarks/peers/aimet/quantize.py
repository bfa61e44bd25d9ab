"""INT8 as AIMET makes it: a simulation with per-channel S8 weights and U8 activations, written as QDQ with S8 weights.

`minmax`, `sqnr` (its name for the search of a clip): how ranges are found, after batch norms are folded. `cle`:
cross-layer equalization first, then `minmax`.
"""

from pathlib import Path

from benchmarks.peers.feeds import Batches
from benchmarks.peers.prepare import raise_opset


def quantize(config: str, model: Path, data: Path, output: Path, folder: Path) -> dict[str, str]:
    """Write the quantized model to `output`."""
    import onnx
    from aimet_onnx import QuantizationSimModel
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
    from aimet_onnx.cross_layer_equalization import equalize_model

    raised, opset = raise_opset(model, folder / "raised.onnx")
    loaded = onnx.load(raised)
    batches = Batches(data)
    if config == "cle":
        equalize_model(loaded)
    else:
        fold_all_batch_norms_to_weight(loaded)
    scheme = "tf_enhanced" if config == "sqnr" else "min_max"
    simulation = QuantizationSimModel(loaded, quant_scheme=scheme, dummy_input=dict(batches.get_first()))
    simulation.compute_encodings(list(batches))
    onnx.save(simulation.to_onnx_qdq(prequantize_constants=True), output)
    return {"opset": opset}
