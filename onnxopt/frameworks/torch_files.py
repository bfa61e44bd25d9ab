"""``.pt`` files: TorchScript, which is a program of its own, or pickled modules.

TorchScript is read by a C++ reader that makes no Python objects, and can do nothing but call operators; it is opened
without ``--trust`` when no operator in its code reads or writes files and none belongs to an extension. A pickle can
run any code when it is read: only with ``--trust``.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import cast

import torch
from torch import nn

from onnxopt.core.report import Note
from onnxopt.errors import InputError
from onnxopt.frameworks.base import Request, require_trust
from onnxopt.frameworks.torch_export import quiet
from onnxopt.frameworks.torch_model import TorchModel
from onnxopt.frameworks.torch_signature import as_original, failed_at

__all__ = ["open_torch_file"]

FILES = re.compile(rb"\b(?:torch\.save|torch\.from_file|load_tensor|aten\.(?:save|from_file))\b")
"""The operators of TorchScript that take a file name (PyTorch 2.13)."""
EXTENSION = re.compile(rb"\bops\.(?!aten\.|prim\.|prims\.|quantized\.)(\w+)\.|__torch__\.torch\.classes\.(\w+)")


def open_torch_file(text: str, request: Request) -> TorchModel:
    """The TorchScript or pickled module in a file.

    Raises:
        InputError: The file is damaged, holds no module, or is not trusted.
        UsageError: Nobody says what the inputs of the module are.
    """
    path = Path(text)
    code = _script(path)
    if code is None:
        require_trust(path, request, "a pickle, not TorchScript")
        return as_original(_unpickled(path), path.name, request)
    unsafe = FILES.search(code) or EXTENSION.search(code)
    if unsafe is not None:
        require_trust(path, request, f"its code calls {unsafe[0].decode(errors='replace')}")
    try:
        with quiet():
            module = cast(nn.Module, torch.jit.load(str(path), map_location="cpu"))  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # the reader raises whatever it met
        raise _damaged(path, error) from error
    notes = () if request.trust else (Note(path.name, "read", "TorchScript without file or extension operators"),)
    return as_original(module, path.name, request, notes=notes)


def _script(path: Path) -> bytes | None:
    """The code in a TorchScript archive; ``None`` for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
            return b"\n".join(archive.read(name) for name in names) if names else None
    except (zipfile.BadZipFile, OSError):
        return None


def _unpickled(path: Path) -> nn.Module:
    try:
        with quiet():
            found: object = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle may raise anything
        raise _damaged(path, error) from error
    if isinstance(found, nn.Module):
        return found
    raise InputError(
        f"the file holds {type(found).__name__}, not a module"
        + (" (weights alone do not say what is computed)" if isinstance(found, dict) else ""),
        where=path.name,
        fix="write a function that builds the module and loads these weights: onnxopt export package.module:function",
    )


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"PyTorch {torch.__version__} cannot read the file: {failed_at(error)}",
        where=path.name,
        fix="save it again, with this version of PyTorch",
    )
