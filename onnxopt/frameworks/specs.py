"""The inputs of a model as the user describes them: ``--input NAME:DTYPE[AXES]``, or the arrays of their data."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxopt.core.query import TensorSpec
from onnxopt.errors import DataError, UsageError, nearest
from onnxopt.frameworks.drawing import BATCH

__all__ = ["FORM", "Described", "describe", "described_by_data", "narrowed", "refuse_described"]

FORM = "--input NAME:DTYPE[AXES], for instance --input 'x:float32[N,3,224,224]' or 'x:float32[N,3,H=224,W=224]'"
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


def described_by_data(path: str, labels: str) -> tuple[TensorSpec, ...]:
    """Inputs like the arrays of an ``.npz`` file, whose first axis counts samples; nothing for any other source."""
    if Path(path).suffix.lower() != ".npz" or not Path(path).is_file():
        return ()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shapes = [(name, arrays[name].dtype, arrays[name].shape) for name in arrays.files if name != labels]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read the data: {error}", where=path, fix="save it again with numpy.savez") from error
    return tuple(TensorSpec(name, dtype, (BATCH, *shape[1:])) for name, dtype, shape in shapes)


def narrowed(known: Sequence[TensorSpec], given: Sequence[TensorSpec], where: str) -> tuple[TensorSpec, ...]:
    """Inputs that a source knows, their free axes with the sizes and names that ``--input`` gives them.

    The batch keeps its name.

    Raises:
        UsageError: There is no such input, or it has another dtype or other axes.
    """
    said = {spec.name: spec for spec in given}
    for name in said:
        if name not in {spec.name for spec in known}:
            raise UsageError(
                f"the model has no input {name!r}",
                where=f"{where}, --input",
                fix=nearest(name, [s.name for s in known]),
            )
    return tuple(_narrowed(spec, said[spec.name], where) if spec.name in said else spec for spec in known)


def refuse_described(given: Sequence[TensorSpec], where: str) -> None:
    """For sources whose inputs are what they are.

    Raises:
        UsageError: The user describes one.
    """
    if given:
        what = "what this model reads is known, and stays as it is"
        raise UsageError(what, where=f"{where}, --input {given[0].name}", fix="leave --input out")


def _narrowed(known: TensorSpec, given: TensorSpec, where: str) -> TensorSpec:
    old, new = known.shape or (), given.shape or ()
    fits = len(old) == len(new) and all(isinstance(o, str) or o == n for o, n in zip(old, new, strict=True))
    if not fits or given.dtype != known.dtype:
        raise UsageError(f"the model takes {known}, not {given}", where=f"{where}, --input", fix="leave it out")
    axes = [o if o == BATCH and isinstance(n, str) else n for o, n in zip(old, new, strict=True)]
    return replace(known, shape=tuple(axes))


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
