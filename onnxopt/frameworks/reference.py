"""A model of a framework in the place of an ONNX session, so that an ONNX file can be scored against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxopt.core.query import Model, input_specs, output_specs
from onnxopt.core.tensors import Array
from onnxopt.errors import DataError, ModelError
from onnxopt.frameworks.base import Original, Request
from onnxopt.frameworks.opening import open_original
from onnxopt.run.session import Feeds, describe_feeds

__all__ = ["FrameworkReference", "open_reference"]


@dataclass(frozen=True)
class FrameworkReference:
    """Answers as an ONNX session does, under the output names of the candidate (see ``evaluate.compare.Runner``).

    Attributes:
        original: The model.
        outputs: Names of its outputs, in order.
        path: What the user called it, for messages.
    """

    original: Original
    outputs: tuple[str, ...]
    path: Path

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The outputs for one set of feeds.

        Raises:
            DataError: The framework cannot run the model on these feeds.
        """
        try:
            values = self.original.run(feeds)
        except Exception as error:  # frameworks share no base class of their errors
            raise DataError(
                f"{self.original.framework} does not run the model on this input: {' '.join(str(error).split())[:300]}",
                where=f"{self.path.name}, inputs {describe_feeds(feeds)}",
                fix="check the values and shapes of the data",
            ) from error
        return dict(zip(self.outputs, values, strict=True))


def open_reference(text: str, candidate: Model, request: Request) -> FrameworkReference:
    """The model that ``text`` names, with the interface of the ONNX model that is compared with it.

    Raises:
        ModelError: Inputs or outputs are not those of the candidate.
        InputError: The source cannot be used (``open_original``).
    """
    specs = input_specs(candidate)
    wanted = [spec.name for spec in specs]
    original = open_original(text, replace(request, assumed=specs))
    names = [spec.name for spec in original.inputs]
    outputs = [spec.name for spec in output_specs(candidate)]
    if set(names) != set(wanted):
        raise _other("input", names, wanted, text)
    if original.outputs and len(original.outputs) != len(outputs):
        raise _other("output", original.outputs, outputs, text)
    return FrameworkReference(original, tuple(outputs), Path(text))


def _other(kind: str, found: Sequence[str], wanted: Sequence[str], text: str) -> ModelError:
    return ModelError(
        f"the candidate cannot stand in for the reference: {kind}s {', '.join(map(repr, wanted))} "
        f"instead of {', '.join(map(repr, found))}",
        where=text,
        fix="compare a model with what it was exported from",
    )
