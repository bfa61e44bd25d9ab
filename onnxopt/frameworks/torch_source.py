"""``package.module:function``: a function of the user's that makes a PyTorch module."""

from __future__ import annotations

from typing import cast

from torch import nn

from onnxopt.core.plugins import load_function
from onnxopt.errors import InputError
from onnxopt.frameworks.base import Request
from onnxopt.frameworks.torch_export import quiet
from onnxopt.frameworks.torch_model import TorchModel
from onnxopt.frameworks.torch_signature import as_original, failed_at

__all__ = ["open_factory"]


def open_factory(text: str, request: Request) -> TorchModel:
    """The module that the function ``text`` returns, alone or as (module, example inputs).

    Raises:
        InputError: The function cannot be imported, fails, or returns no module.
        UsageError: Nobody says what the inputs of the module are.
    """
    with quiet():
        function = load_function(text, "SOURCE", InputError)
        module, example = _made(function, text)
    return as_original(module, text, request, example)


def _made(function: object, text: str) -> tuple[nn.Module, object]:
    if isinstance(function, nn.Module):  # a module is callable too
        return function, None
    try:
        made: object = function()  # pyright: ignore[reportCallIssue, reportUnknownVariableType]
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"the function failed: {failed_at(error)}", where=text, fix="run it alone and repair it"
        ) from error
    example: object = None
    if isinstance(made, tuple) and len(cast(tuple[object, ...], made)) > 1:
        made, *more = cast(tuple[object, ...], made)
        example = more[0] if len(more) == 1 else tuple(more)
    if not isinstance(made, nn.Module):
        kind = type(cast(object, made)).__name__
        raise InputError(
            f"the function returned {kind}, not a torch.nn.Module",
            where=text,
            fix="return the module, or (module, example inputs)",
        )
    return made, example
