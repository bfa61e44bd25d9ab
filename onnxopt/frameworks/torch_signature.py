"""How a torch module is to be called: names, shapes, usual sizes and bounds of its inputs, found by calling it."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from onnxopt.core.query import TensorSpec
from onnxopt.core.report import Note
from onnxopt.errors import InputError, UsageError, nearest
from onnxopt.frameworks.base import Request
from onnxopt.frameworks.drawing import BATCH, batch_symbol, drawn, symbols
from onnxopt.frameworks.specs import FORM, Described
from onnxopt.frameworks.torch_export import quiet
from onnxopt.frameworks.torch_flat import Flat, array_from, tensor_from
from onnxopt.frameworks.torch_model import EXAMPLE_BATCH, TorchModel

__all__ = ["as_original", "described_by_example", "failed_at"]

SIZES = (16, 32, 64, 128, 224, 8)
"""Tried in turn for free axes whose usual size nobody gave."""


def as_original(
    module: nn.Module, where: str, request: Request, example: object = None, *, notes: Sequence[Note] = ()
) -> TorchModel:
    """The module as something to export: put into evaluation mode, its inputs known, its outputs named.

    Args:
        module: The module; it is put into evaluation mode.
        where: What the user called it, for messages.
        request: What the user says about the inputs.
        example: Example inputs that came with the module: a tensor, a sequence or a mapping of tensors.
        notes: What is known already.

    Raises:
        UsageError: Nobody says what the inputs are, or they do not fit the module.
        InputError: The module does not run on such inputs.
    """
    found = [*notes]
    if not isinstance(module, torch.jit.ScriptModule) and any(part.training for part in module.modules()):
        found.append(Note("mode", "changed", "was in training mode; exported and compared in evaluation mode"))
    module.cpu().eval()
    parameters = _parameters(module)
    given, sizes = request.described, dict(request.sizes)
    if not given and example is not None:
        given, sizes = described_by_example(example, parameters, where)
    if not given:
        raise UsageError(
            f"the inputs of the module are not known: it takes {', '.join(parameters) or 'any'}",
            where=where,
            fix=f"give {FORM}; or --data samples.npz; or return (module, example inputs) from the function",
        )
    inputs = tuple(_fitting(spec, module) for spec in given)
    flat = Flat(module, _names(inputs, parameters, where)).eval()
    return _settled(flat, inputs, sizes, where, request, found, is_guess=not request.described)


def described_by_example(example: object, parameters: Sequence[str], where: str) -> Described:
    """Inputs like the example, the first axis of all that have as many rows as the first one free; and those rows.

    Raises:
        InputError: The example holds something else than tensors.
    """
    if isinstance(example, Mapping):
        items = {str(key): value for key, value in cast(Mapping[object, object], example).items()}
    else:
        values = [*cast(Sequence[object], example)] if isinstance(example, tuple | list) else [example]
        names = [*parameters, *(f"input_{i}" for i in range(len(parameters), len(values)))]
        items = dict(zip(names, values, strict=False))
    tensors = {name: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for name, v in items.items()}
    wrong = next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None)
    if wrong is not None or not tensors:
        kind = "nothing" if wrong is None else f"{type(tensors[wrong]).__name__} for {wrong!r}"
        raise InputError(
            f"the example inputs hold {kind}, not tensors", where=where, fix="give tensors, or describe with --input"
        )
    arrays = {name: array_from(value) for name, value in tensors.items() if isinstance(value, Tensor)}
    rows = next((array.shape[0] for array in arrays.values() if array.ndim), None)
    specs = tuple(
        TensorSpec(n, a.dtype, (BATCH, *a.shape[1:]) if a.ndim and a.shape[0] == rows else a.shape)
        for n, a in arrays.items()
    )
    return specs, {} if rows is None else {BATCH: rows}


def failed_at(error: BaseException) -> str:
    """``TypeError: message (file.py:12, in forward)``: an error of the user's code in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith("<")]
    frame = (own or [*frames])[-1] if frames else None
    place = "" if frame is None else f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name})"
    said = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {said}{place}" if said else f"{type(error).__name__}{place}"


def _parameters(module: nn.Module) -> list[str]:
    """Names of the arguments of ``forward``, those first that have no default."""
    if isinstance(module, torch.jit.ScriptModule):
        schema: Any = getattr(module, "forward").schema  # noqa: B009 (a script module makes it up)
        return [str(argument.name) for argument in schema.arguments[1:]]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]


def _names(inputs: Sequence[TensorSpec], parameters: Sequence[str], where: str) -> tuple[str, ...] | None:
    """Argument names when the inputs go by name, ``None`` when they go by position."""
    names = tuple(spec.name for spec in inputs)
    known = [name for name in names if name in parameters]
    if names == tuple(parameters[: len(names)]) or not known:
        return None
    unknown = next((name for name in names if name not in parameters), None)
    if unknown is not None:
        raise UsageError(
            f"the module has no argument {unknown!r}", where=f"--input, {where}", fix=nearest(unknown, parameters)
        )
    return names


def _fitting(spec: TensorSpec, module: nn.Module) -> TensorSpec:
    """float64 arrays become what the module computes in: numpy's default is nobody's choice."""
    own = next((p.dtype for p in module.parameters() if p.dtype.is_floating_point), torch.float32)
    if spec.dtype == np.float64 and own == torch.float32:
        return replace(spec, dtype=np.dtype(np.float32))
    return spec


def _settled(
    flat: Flat,
    inputs: tuple[TensorSpec, ...],
    sizes: Mapping[str, int],
    where: str,
    request: Request,
    notes: list[Note],
    *,
    is_guess: bool,
) -> TorchModel:
    """The model with sizes of the free axes on which it runs."""
    symbol = batch_symbol(inputs)
    open_axes = [name for name in symbols(inputs) if name != symbol and name not in sizes]
    error: Exception | None = None
    for size in SIZES if open_axes else SIZES[:1]:
        chosen = {**dict.fromkeys(open_axes, size), **sizes}
        if symbol is not None:
            chosen[symbol] = EXAMPLE_BATCH
        try:
            below = _bounds(flat, inputs, chosen, request.seed)
            names = tuple(_call(flat, inputs, chosen, request.seed, below))
        except Exception as raised:  # the user's module may raise anything
            error = raised
            continue
        return TorchModel(flat, inputs, chosen, below, names, tuple(notes))
    if is_guess and symbol is not None:
        rows = sizes.get(symbol, 1)
        fixed = tuple(replace(s, shape=tuple(rows if d == symbol else d for d in s.shape or ())) for s in inputs)
        reason = f"the module takes no batch of {EXAMPLE_BATCH}, so that the first axis is fixed at {rows}"
        notes = [*notes, Note("batch", "fixed", reason)]
        return _settled(flat, fixed, sizes, where, request, notes, is_guess=False)
    raise InputError(
        f"the module does not run on random inputs of these shapes: {failed_at(error) if error else 'unknown'}",
        where=f"{where}: {'; '.join(map(str, inputs))}",
        fix="describe its inputs with --input NAME:DTYPE[AXES] (H=224 gives an axis its usual size), "
        "or give --data if only real values do",
    )


def _call(
    flat: Flat, inputs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int, below: Mapping[str, int]
) -> dict[str, Tensor]:
    feeds = drawn(inputs, sizes, seed, below)
    with torch.no_grad(), quiet():
        return flat.named(*(tensor_from(feeds[spec.name]) for spec in inputs))


def _bounds(flat: Flat, inputs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int) -> dict[str, int]:
    """Input name -> rows of the smallest table (``Embedding``) that is looked up with that very input."""
    feeds = drawn(inputs, sizes, seed)
    tensors = {spec.name: tensor_from(feeds[spec.name]) for spec in inputs}
    owners = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors.items() if tensor.numel()}
    below: dict[str, int] = {}

    def watch(module: nn.Module, arguments: tuple[object, ...]) -> None:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and arguments and isinstance(arguments[0], Tensor):
            name = owners.get(arguments[0].untyped_storage().data_ptr())
            if name is not None:
                below[name] = min(below.get(name, module.num_embeddings), module.num_embeddings)

    tables = [m for m in flat.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    handles = [table.register_forward_pre_hook(watch) for table in tables]
    try:
        with torch.no_grad(), quiet():
            flat(*tensors.values())
    finally:
        for handle in handles:
            handle.remove()
    return below
