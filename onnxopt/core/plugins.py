"""Code that may not be there: functions that users name as ``module:function``, and packages of extras."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from onnxopt.errors import MissingExtraError, OnnxoptError, nearest

__all__ = ["load_function", "optional"]


def load_function(name: str, option: str, kind: type[OnnxoptError]) -> Callable[..., object]:
    """The function that ``module:function`` names; modules of the working folder are found too.

    Args:
        name: What the user wrote.
        option: Where they wrote it, for messages.
        kind: The error to raise.

    Raises:
        OnnxoptError: The module cannot be imported or holds no such function.
    """
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise kind(
            f"cannot import {module_name!r}: {type(error).__name__}: {error}",
            where=f"{option} {name}",
            fix="give module:function of a module in the working folder or an installed package",
        ) from error
    function: object = getattr(module, function_name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise kind(
            f"module {module_name!r} has no function {function_name!r}",
            where=f"{option} {name}",
            fix=nearest(function_name, known),
        )
    return function


def optional(module: str, extra: str) -> ModuleType:
    """A module of an optional package.

    Args:
        module: What to import.
        extra: The extra of onnxopt that brings it.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is not installed: {error}", where=f"import {module}", fix=f"pip install 'onnxopt[{extra}]'"
        ) from error
