"""What ONNX Runtime's quantizer and those built on it ask for: an opset with per-channel weights, clean shapes."""

from pathlib import Path

PER_CHANNEL_OPSET = 13
"""First opset whose DequantizeLinear has an axis; below it `quantize_static` writes a model that does not load."""


def prepare(model: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Return the prepared model, and what was done (keys `opset`, `preprocess`).

    The preparation is the one that the documentation asks for (`quant_pre_process`); where that fails it is tried
    without symbolic shapes, then left out.
    """
    raised, opset = raise_opset(model, folder / "raised.onnx")
    prepared, preprocess = _preprocess(raised, folder / "prepared.onnx")
    return prepared, {"opset": opset, "preprocess": preprocess}


def raise_opset(model: Path, output: Path) -> tuple[Path, str]:
    """Return `model`, or `output` with the model at `PER_CHANNEL_OPSET`, and a word on which."""
    import onnx
    from onnx import version_converter

    loaded = onnx.load(model)
    opset = next(entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx"))
    if opset >= PER_CHANNEL_OPSET:
        return model, str(opset)
    onnx.save(version_converter.convert_version(loaded, PER_CHANNEL_OPSET), output)
    return output, f"{opset} raised to {PER_CHANNEL_OPSET}"


def _preprocess(model: Path, output: Path) -> tuple[Path, str]:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        quant_pre_process(model, output)
        return output, "done"
    except Exception as error:  # it raises whatever its parts raise
        failure = f"failed ({type(error).__name__})"
    try:
        quant_pre_process(model, output, skip_symbolic_shape=True)
        return output, f"{failure}, done without symbolic shapes"
    except Exception as error:
        return model, f"{failure}, without symbolic shapes too ({type(error).__name__}): left out"
