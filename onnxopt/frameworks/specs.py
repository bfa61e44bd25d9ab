"""The inputs of a model as the user describes them: ``--input NAME:DTYPE[AXES]``, or the arrays of their data."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.errors import DataError, UsageError, nearest
from onnxopt.frameworks.drawing import BATCH

__all__ = ["FORM", "Described", "describe", "described_by_data"]

FORM = "--input NAME:DTYPE[AXES], for instance --input x:float32[N,3,224,224] or --input x:float32[N,3,H=224,W=224]"
_INPUT = re.compile(r"(?P<name>[A-Za-z_][\w.]*):(?P<dtype>\w+)\[(?P<axes>[^\[\]]*)\]")
_AXIS = re.compile(r"(?:(?P<symbol>[A-Za-z_]\w*)(?:=(?P<example>\d+))?)|(?P<size>\d+)")
_DTYPES = (
    "float32", "float64", "float16", "int64", "int32", "int16", "int8",
    "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip

Described = tuple[tuple[TensorSpec, ...], dict[str, int]]
"""Inputs, and example sizes of their symbols."""


def describe(texts: Sequence[str]) -> Described:
    """What ``--input`` says, once for each input.

    Raises:
        UsageError: A text has another form, or two of them do not agree.
    """
    specs: list[TensorSpec] = []
    sizes: dict[str, int] = {}
    for text in texts:
        found = _INPUT.fullmatch(text.replace(" ", ""))
        if found is None:
            raise UsageError("this does not describe an input", where=f"--input {text}", fix=f"write {FORM}")
        if found["dtype"] not in _DTYPES:
            raise UsageError(
                f"there is no dtype {found['dtype']!r}", where=f"--input {text}", fix=nearest(found["dtype"], _DTYPES)
            )
        if any(spec.name == found["name"] for spec in specs):
            raise UsageError(
                f"input {found['name']!r} is described twice", where=f"--input {text}", fix="describe each once"
            )
        axes = [_axis(item, text, sizes) for item in found["axes"].split(",") if found["axes"]]
        specs.append(TensorSpec(found["name"], np.dtype(found["dtype"]), tuple(axes)))
    return tuple(specs), sizes


def described_by_data(path: str, labels: str) -> Described:
    """Inputs like the arrays of an ``.npz`` file, whose first axis counts samples; nothing for any other source."""
    if Path(path).suffix.lower() != ".npz" or not Path(path).is_file():
        return (), {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = [(name, arrays[name].dtype, arrays[name].shape) for name in arrays.files if name != labels]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read the data: {error}", where=path, fix="save it again with numpy.savez") from error
    return tuple(TensorSpec(name, dtype, (BATCH, *shape[1:])) for name, dtype, shape in shapes), {}


def _axis(item: str, text: str, sizes: dict[str, int]) -> int | str:
    found = _AXIS.fullmatch(item)
    if found is None or found["size"] == "0" or found["example"] == "0":
        raise UsageError(f"{item!r} is no axis", where=f"--input {text}", fix=f"give sizes or names: {FORM}")
    if found["size"]:
        return int(found["size"])
    symbol = found["symbol"]
    if found["example"]:
        example = int(found["example"])
        if sizes.setdefault(symbol, example) != example:
            raise UsageError(
                f"axis {symbol} has two sizes: {sizes[symbol]} and {example}",
                where=f"--input {text}",
                fix="use another name for one of the axes",
            )
    return symbol
