"""Raising the opset of a model, for passes that need a newer form of an operator.

``onnx.version_converter`` does the work. It does not convert the bodies of control flow, so the result is only as
good as the comparison that follows every pass.
"""

from __future__ import annotations

from onnx import version_converter

from onnxopt.core.io import EXTERNAL_THRESHOLD, total_bytes
from onnxopt.core.proto import from_proto, to_proto
from onnxopt.core.query import Model, opset
from onnxopt.errors import ModelError

__all__ = ["raise_opset"]


def raise_opset(model: Model, minimum: int) -> Model:
    """The model at opset ``minimum`` or above: itself when it is there already, else a converted copy.

    A model that imports no standard operators has none to convert, and is returned as it is.

    Raises:
        ModelError: The converters do not know how to convert it.
    """
    found = opset(model)
    if found >= minimum or not found:
        return model
    if total_bytes(model) > EXTERNAL_THRESHOLD:
        raise _refused(found, minimum, "the model is larger than 2 GB")
    try:
        converted = version_converter.convert_version(to_proto(model), minimum)
    except Exception as error:  # the converter raises whatever its adapters met
        raise _refused(found, minimum, " ".join(str(error).split())[:300]) from error
    return from_proto(converted)


def _refused(found: int, minimum: int, reason: str) -> ModelError:
    return ModelError(
        f"the model cannot be converted from opset {found} to {minimum}: {reason}",
        where="opset conversion",
        fix=f"export the model again with opset {minimum} or above",
    )
