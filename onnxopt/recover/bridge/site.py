"""A node as its operator sees it when it is compiled; and the table of operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor

from onnxopt.core.query import label
from onnxopt.errors import ModelError
from onnxopt.recover.bridge.types import Types, integers

__all__ = ["MICROSOFT", "OPERATORS", "Binary", "Build", "Function", "Site", "Unary", "kind_of", "operator"]

Function: TypeAlias = Callable[..., "Tensor | Sequence[Tensor]"]
"""Takes the inputs of a node (``None`` for one that is left out), returns its output or its outputs."""
Unary: TypeAlias = Callable[[Tensor], Tensor]
Binary: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Build: TypeAlias = "Callable[[Site], Function]"
B = TypeVar("B", bound=Build)
MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

OPERATORS: dict[tuple[str, str], dict[int, Build]] = {}
"""``(domain, operator)`` -> the version since which it means what the function does -> the function."""


@dataclass(frozen=True)
class Site:
    """One node to compile.

    Attributes:
        node: The node.
        version: The version of its operator set that the model imports.
        types: Which torch types stand for which ONNX types.
        constants: The values of its inputs that never change, ``None`` for the others.
    """

    node: ir.Node
    version: int
    types: Types
    constants: tuple[Tensor | None, ...]

    @property
    def where(self) -> str:
        """The node and its operator, for messages."""
        return f"node {label(self.node)!r} ({self.node.op_type}, opset {self.version})"

    def refuse(self, what: str, fix: str = "change the model so that it does without") -> ModelError:
        """The error that says why this node cannot be trained through."""
        return ModelError(f"the graph cannot be trained: {what}", where=self.where, fix=fix)

    def has(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def constant(self, index: int) -> Tensor | None:
        """The value of input ``index`` when it never changes."""
        return self.constants[index] if index < len(self.constants) else None

    def is_wanted(self, output: int) -> bool:
        """Whether anything may read output ``output``."""
        return output < len(self.node.outputs) and bool(self.node.outputs[output].name)

    def attribute(self, name: str) -> ir.Attr | None:
        """The attribute, if it is set."""
        return self.node.attributes.get(name)

    def int(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.attribute(name)
        return default if found is None else found.as_int()

    def float(self, name: str, default: float) -> float:
        """A float attribute."""
        found = self.attribute(name)
        return default if found is None else found.as_float()

    def string(self, name: str, default: str) -> str:
        """A string attribute."""
        found = self.attribute(name)
        return default if found is None else found.as_string()

    def ints(self, name: str) -> list[int] | None:
        """A list of integers, ``None`` where it is not set."""
        found = self.attribute(name)
        return None if found is None else list(found.as_ints())

    def type(self, name: str, default: ir.DataType | None) -> torch.dtype | None:
        """The torch type that an attribute names, for instance ``to`` of Cast."""
        found = self.attribute(name)
        kind = default if found is None or not found.as_int() else ir.DataType(found.as_int())
        return None if kind is None else self.types.of(kind, self.where)

    def listed(self, index: int, name: str = "") -> Callable[[Tensor | None], list[int] | None]:
        """Reads a list of integers that is an attribute, a constant input, or an input known at run time only.

        Args:
            index: The input.
            name: The attribute that older versions have in its place.
        """
        known = self.ints(name) if name else None
        constant = self.constant(index)
        if known is None and constant is not None:
            known = integers(constant)
        if known is not None or not self.has(index):
            return lambda value: known
        return lambda value: None if value is None else integers(value)

    def number(self, index: int, name: str, default: float | None) -> Callable[[Tensor | None], float | None]:
        """Reads a number that is an attribute, a constant input, or an input known at run time only."""
        found = self.attribute(name) if name else None
        constant = self.constant(index)
        known = default if found is None else found.as_float()
        if constant is not None and constant.numel():
            known = constant.reshape(-1)[0].item()
        if constant is not None or not self.has(index):
            return lambda value: known
        return lambda value: known if value is None or not value.numel() else value.reshape(-1)[0].item()


def operator(*names: str, since: int = 1, domain: str = "") -> Callable[[B], B]:
    """Registers a function for operators, from version ``since`` up to the next that is registered."""

    def register(build: B) -> B:
        for name in names:
            OPERATORS.setdefault((domain, name), {})[since] = build
        return build

    return register


def kind_of(value: ir.Value | None) -> ir.DataType | None:
    """The element type of a value, as far as the graph says it."""
    if value is None:
        return None
    return value.dtype if value.const_value is None else value.const_value.dtype
