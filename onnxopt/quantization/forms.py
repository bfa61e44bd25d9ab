"""What the ways to quantize have in common: which layers they reach, and leaving some of them in float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias, TypeGuard, TypeVar

from onnxopt.core.query import Model, label, nodes
from onnxopt.quantization.dynamic import DynamicQuantize, dynamic_reason
from onnxopt.quantization.mixed import MixedQuantize
from onnxopt.quantization.patterns import left_float
from onnxopt.quantization.recurrent import RECURRENT
from onnxopt.quantization.select import COMPUTE
from onnxopt.quantization.static import StaticQuantize

__all__ = ["Quantizer", "is_quantizer", "planned", "with_float"]

Quantizer: TypeAlias = StaticQuantize | DynamicQuantize | MixedQuantize
Q = TypeVar("Q", bound=Quantizer)


def with_float(item: Q, labels: Sequence[str]) -> Q:
    """``item`` with further nodes that stay float."""
    if isinstance(item, MixedQuantize):
        return replace(item, static=with_float(item.static, labels), dynamic=with_float(item.dynamic, labels))
    return replace(item, keep_float=tuple(dict.fromkeys((*item.keep_float, *labels))))


def is_quantizer(item: object) -> TypeGuard[Quantizer]:
    """Whether layers of what the pass makes can be left in float."""
    return isinstance(item, StaticQuantize | DynamicQuantize | MixedQuantize)


def planned(item: Quantizer, model: Model) -> tuple[str, ...]:
    """Labels of the nodes that would run on integers, in graph order."""
    if isinstance(item, StaticQuantize):
        return item.planned(model)
    if isinstance(item, MixedQuantize):
        reached = {*planned(item.static, model), *planned(item.dynamic, model)}
        return tuple(label(n) for n in nodes(model) if label(n) in reached)
    skip = left_float(nodes(model), item.exclude, item.keep_float)
    return tuple(
        label(n)
        for n in nodes(model)
        if n.op_type in COMPUTE | RECURRENT and n.domain == "" and n not in skip
        if dynamic_reason(n) is None
    )
