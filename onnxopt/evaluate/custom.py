"""Metrics that the user writes: ``module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from onnxopt.errors import UsageError, nearest
from onnxopt.evaluate.rows import Array

__all__ = ["load_function"]


def load_function(name: str) -> Callable[[Array, Array | None], float]:
    """The function that ``module:function`` names; modules of the working folder are found too.

    Raises:
        UsageError: The module cannot be imported or holds no such function.
    """
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise UsageError(
            f"the module {module_name!r} cannot be imported: {type(error).__name__}: {error}",
            where=f"--metric {name}",
            fix="give module:function of a module in the working folder or an installed package",
        ) from error
    finally:
        if added:
            sys.path.remove(folder)
    function: object = getattr(module, function_name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise UsageError(
            f"the module {module_name!r} has no function {function_name!r}",
            where=f"--metric {name}",
            fix=nearest(function_name, known),
        )
    return cast("Callable[[Array, Array | None], float]", function)
