"""Static INT8 for some layers and dynamic INT8 for others of one model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from onnxopt.core.query import Model, label, nodes
from onnxopt.passes.base import Context, PassResult
from onnxopt.quantization.dynamic import DynamicQuantize
from onnxopt.quantization.existing import has_quantized_weight
from onnxopt.quantization.patterns import excluded, matching
from onnxopt.quantization.recurrent import RECURRENT
from onnxopt.quantization.select import COMPUTE
from onnxopt.quantization.static import StaticQuantize

__all__ = ["MixedQuantize"]


@dataclass(frozen=True)
class MixedQuantize:
    """``static``, then ``dynamic`` on what is left.

    Attributes:
        static: How the model is quantized ahead of time.
        dynamic: How the rest is.
        dynamic_nodes: Labels of the nodes that are to be dynamic instead of static, and of no others; ``None``: all
            that ``static`` leaves in float.
    """

    name: ClassVar[str] = "quantize-mixed"
    lossy: ClassVar[bool] = True

    static: StaticQuantize = field(default_factory=StaticQuantize)
    dynamic: DynamicQuantize = field(default_factory=DynamicQuantize)
    dynamic_nodes: tuple[str, ...] | None = None

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Quantizes; ``changes`` counts the nodes that run on integers, notes those that neither pass has changed.

        Raises:
            DataError: There are no data to calibrate on.
            UsageError: An exclusion pattern matches no node.
        """
        chosen = frozenset(self.dynamic_nodes or ())
        excluded(nodes(model), self.dynamic.exclude)
        first = replace(self.static, keep_float=(*self.static.keep_float, *sorted(chosen))).run(model, ctx)
        # The first pass may have put functions into the graph, whose nodes have other names then.
        patterns = tuple(p for p in self.dynamic.exclude if matching(nodes(first.model), p))
        second = replace(self.dynamic, exclude=patterns)
        if self.dynamic_nodes is not None:
            layers = [n for n in nodes(first.model) if n.op_type in COMPUTE | RECURRENT]
            rest = [label(n) for n in layers if not has_quantized_weight(n)]
            second = replace(second, keep_float=(*second.keep_float, *(name for name in rest if name not in chosen)))
        result = second.run(first.model, ctx)
        # The second pass sees what the first has quantized, and says of it only that it is.
        left = {n.node for n in result.notes}
        known = tuple(n for n in first.notes if n.node in left)
        named = {n.node for n in known}
        other = tuple(n for n in result.notes if n.node not in named and not n.reason.endswith("is quantized already"))
        return PassResult(result.model, first.changes + result.changes, (*known, *other))
