"""``test_data_set_*`` folders as ONNX ships them with its models: ``input_0.pb``, ``input_1.pb``, ...

Each folder is one call; expected outputs are ignored. Format: ``onnx/backend/test`` of the ONNX repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.core.query import TensorSpec
from onnxopt.data.check import fit
from onnxopt.data.content import Digest, Source, natural_key, readable
from onnxopt.data.dataset import Array, Sample
from onnxopt.errors import DataError

__all__ = ["data_set_folders", "open_test_data"]


def data_set_folders(folder: Path) -> tuple[Path, ...]:
    """``folder`` itself if it holds ``input_0.pb``, else its ``test_data_set_*`` folders in natural order."""
    if (folder / "input_0.pb").is_file():
        return (folder,)
    found = (p for p in folder.glob("test_data_set_*") if p.is_dir())
    return tuple(sorted(found, key=lambda p: natural_key(p.name)))


def open_test_data(folders: Sequence[Path], specs: Sequence[TensorSpec]) -> Source:
    """One sample for each of ``folders``.

    Raises:
        DataError: A tensor is missing, unreadable or does not fit its input.
    """
    reader = _Folders(tuple(folders), tuple(specs))
    digest = Digest("protobuf")
    for index, folder in enumerate(folders):
        reader.read(index)
        for path in _inputs(folder):
            with readable(path, "tensor"):
                digest.file(path)
        digest.text("")
    return Source(len(folders), reader.read, digest.hex())


@dataclass(frozen=True)
class _Folders:
    folders: tuple[Path, ...]
    specs: tuple[TensorSpec, ...]

    def read(self, index: int) -> Sample:
        folder = self.folders[index]
        tensors = [_tensor(path) for path in _inputs(folder)]
        if len(tensors) != len(self.specs):
            names = ", ".join(repr(spec.name) for spec in self.specs)
            raise DataError(
                f"{len(tensors)} input tensors for the {len(self.specs)} inputs of the model ({names})",
                where=str(folder),
                fix="give input_0.pb, input_1.pb, ... in the order of the model's inputs",
            )
        wanted = [spec.name for spec in self.specs]
        names = [name for name, _ in tensors]
        if sorted(names) != sorted(wanted):  # unnamed, or named after another export: the order decides
            names = wanted
        feeds = {name: array for name, (_, array) in zip(names, tensors, strict=True)}
        return Sample(fit(feeds, self.specs, f"{folder}, sample {index}"))


def _inputs(folder: Path) -> list[Path]:
    return sorted(folder.glob("input_*.pb"), key=lambda p: natural_key(p.name))


def _tensor(path: Path) -> tuple[str, Array]:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    with readable(path, "tensor"):
        try:
            tensor = onnx.TensorProto.FromString(path.read_bytes())
        except DecodeError as error:
            raise ValueError(str(error)) from error
        return tensor.name, numpy_helper.to_array(tensor, base_dir=str(path.parent))
