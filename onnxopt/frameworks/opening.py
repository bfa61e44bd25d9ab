"""Which framework a source belongs to: by its file name, by what its folder holds, or because it names a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from onnxopt.core.plugins import optional
from onnxopt.data.callables import is_callable_path
from onnxopt.errors import InputError, UsageError, nearest
from onnxopt.frameworks.base import Original, Request

__all__ = ["is_original", "open_original"]


@dataclass(frozen=True)
class Opener:
    """A function of this package that opens a kind of source, ``(text, request) -> Original``.

    Attributes:
        module: The module of this package that it is in.
        function: Its name.
        needs: Packages that the module imports.
        extra: The extra of onnxopt that brings them.
    """

    module: str
    function: str
    needs: tuple[str, ...]
    extra: str

    def open(self, text: str, request: Request) -> Original:
        """The model that ``text`` names."""
        for package in self.needs:
            optional(package, self.extra)
        found: object = getattr(import_module(f"onnxopt.frameworks.{self.module}"), self.function)
        return cast(Callable[[str, Request], Original], found)(text, request)


def _torch(module: str, function: str) -> Opener:
    return Opener(module, function, ("torch", "onnxscript"), "torch")


FUNCTION = _torch("torch_source", "open_factory")
"""Opens ``package.module:function``."""
SUFFIXES = {
    ".pt2": _torch("torch_program", "open_program"),
    **dict.fromkeys((".pt", ".pth", ".ts", ".torchscript"), _torch("torch_files", "open_torch_file")),
    **dict.fromkeys(
        (".joblib", ".pkl", ".pickle", ".skops"),
        Opener("scikit", "open_estimator", ("sklearn", "joblib", "skl2onnx"), "sklearn"),
    ),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), Opener("keras_source", "open_keras", (), "keras")),
}
"""Opens a file with that suffix."""
FOLDERS = {
    "config.json": Opener("huggingface", "open_folder", ("torch", "onnxscript", "transformers"), "hf"),
    "saved_model.pb": Opener("saved_model", "open_saved_model", ("tensorflow", "tf2onnx"), "tf"),
}
"""Opens a folder that holds a file of that name."""
KINDS = (
    "package.module:function (PyTorch), .pt2, TorchScript (.pt), scikit-learn (.joblib, .pkl, .skops), "
    "Keras (.keras, .h5), a SavedModel folder, or a Hugging Face folder (config.json with model.safetensors)"
)


def is_original(text: str) -> bool:
    """Whether ``text`` names a source of a framework rather than an ONNX file; nothing is opened."""
    return _opener(text) is not None


def open_original(text: str, request: Request) -> Original:
    """The model that ``text`` names.

    Raises:
        UsageError: It is an ONNX file, or of no known kind.
        InputError: It does not exist, cannot be read, or needs ``--trust``, an extra or inputs that are not given.
    """
    opener = _opener(text)
    if opener is None:
        raise _refused(text)
    return opener.open(text, request)


def _opener(text: str) -> Opener | None:
    path = Path(text)
    if path.is_dir():
        return next((opener for name, opener in FOLDERS.items() if (path / name).is_file()), None)
    if path.is_file():
        return SUFFIXES.get(path.suffix.lower())
    return FUNCTION if is_callable_path(text) else None


def _refused(text: str) -> UsageError | InputError:
    path = Path(text)
    if path.is_file() and path.suffix.lower() == ".onnx":
        fix = "use it as it is, or see `onnxopt optimize`"
        return UsageError("this is an ONNX model already", where=path.name, fix=fix)
    if path.exists():
        what = "the folder holds no model of a known kind" if path.is_dir() else f"{path.suffix or 'a bare name'}"
        what = what if path.is_dir() else f"no model can be read from a file of this kind ({what})"
        return InputError(what, where=text, fix=f"give {KINDS}")
    try:
        siblings = [entry.name for entry in path.absolute().parent.iterdir()]
    except OSError:
        siblings = []
    guess = nearest(path.name, siblings)
    hint = guess if guess.startswith("did you mean") else f"or give {KINDS}"
    return InputError("no such file, folder or function", where=text or "''", fix=f"check the source; {hint}")
