"""INT8 as ONNX Runtime's own quantizer makes it: what a user has without onnxopt, given its best usual settings.

The preparation is the one its documentation asks for (`quant_pre_process`); where that fails it is tried without
symbolic shapes, then left out. Imports stay here and inside functions, so that a child process loads nothing else.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal["static", "dynamic"]

PER_CHANNEL_OPSET = 13
"""First opset whose DequantizeLinear has an axis; below it `quantize_static` writes a model that does not load."""


class Batches:
    """A `CalibrationDataReader` over what `--data` takes in the zoo; mutable because that interface is an iterator."""

    def __init__(self, data: Path) -> None:
        self._feeds = _feeds(data)

    def get_next(self) -> Mapping[str, np.ndarray[Any, Any]] | None:
        """Return the feeds of the next call, or `None` at the end."""
        return next(self._feeds, None)


def quantize(kind: Kind, model: Path, data: Path, output: Path) -> dict[str, str]:
    """Write the quantized model to `output`; return what the preparation did (keys `opset`, `preprocess`)."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static

    model, data, output = model.resolve(), data.resolve(), output.resolve()
    with tempfile.TemporaryDirectory(prefix="int8-peer-") as name, chdir(name):  # it leaves files where it fails
        folder = Path(name)
        raised, opset = _raise_opset(model, folder / "raised.onnx")
        prepared, preprocess = _preprocess(raised, folder / "prepared.onnx")
        if kind == "dynamic":
            quantize_dynamic(prepared, output)
        else:
            quantize_static(
                prepared,
                output,
                Batches(data),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
    return {"opset": opset, "preprocess": preprocess}


def _raise_opset(model: Path, output: Path) -> tuple[Path, str]:
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


def _feeds(data: Path) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Each row of an `.npz` file, or each file of a folder as one call; labels left out."""
    for path in sorted(data.iterdir()) if data.is_dir() else [data]:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files if name != "labels"}
        if data.is_dir():
            yield arrays
            continue
        for row in range(len(next(iter(arrays.values())))):
            yield {name: array[row : row + 1] for name, array in arrays.items()}
