"""Any torch module as a function from tensors to a tuple of tensors, with a name for each of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from onnxopt.core.tensors import Array

__all__ = ["PREFIX", "Flat", "array_from", "named_outputs", "tensor_from"]

PREFIX = "model."
"""What ``Flat`` puts before the names of parameters."""


class Flat(nn.Module):
    """Calls a module with tensors by position and gives its tensors as a flat tuple.

    Args:
        model: The module.
        names: Names of its arguments, one a tensor; ``None``: they go by position.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...] | None) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors that the module returns, in the order of ``named_outputs``."""
        return tuple(self.named(*tensors).values())

    def named(self, *tensors: Tensor) -> dict[str, Tensor]:
        """The tensors that the module returns, by name."""
        if self.names is None:
            return named_outputs(self.model(*tensors))
        return named_outputs(self.model(**dict(zip(self.names, tensors, strict=True))))


def named_outputs(result: object) -> dict[str, Tensor]:
    """The tensors in what a module returned: keys of mappings, fields of named tuples, else numbers.

    Raises:
        TypeError: There is something else than tensors in it, or nothing.
    """
    found = list(_tensors(result, ""))
    if not found:
        raise TypeError("the module returns no tensor")
    if len(found) == 1:
        return {found[0][0] or "output": found[0][1]}
    names: dict[str, Tensor] = {}
    for index, (name, tensor) in enumerate(found):
        names[name if name and not name[0].isdigit() and name not in names else f"output_{name or index}"] = tensor
    return names


def _tensors(result: object, name: str) -> Iterator[tuple[str, Tensor]]:
    join = f"{name}_" if name else ""
    if isinstance(result, Tensor):
        yield name, result
    elif isinstance(result, Mapping):
        for key, value in cast(Mapping[Any, object], result).items():
            yield from _tensors(value, f"{join}{key}")
    elif isinstance(result, tuple | list):
        items = cast(Sequence[object], result)
        fields = getattr(items, "_fields", None) or [str(index) for index in range(len(items))]
        for key, value in zip(fields, items, strict=True):
            yield from _tensors(value, f"{join}{key}" if len(items) > 1 else name)
    elif result is not None:
        raise TypeError(f"the module returns {type(result).__name__}, not only tensors")


def tensor_from(array: Array) -> Tensor:
    """A tensor with a copy of the values of ``array``."""
    return torch.from_numpy(np.array(array))  # pyright: ignore[reportUnknownMemberType]


def array_from(tensor: Tensor) -> Array:
    """The values of ``tensor``; bfloat16, which numpy does not have, as float32."""
    plain = tensor.detach().cpu()
    return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())
