"""Weight-only quantization: weights of MatMul, Gemm and lookups in blocks of 4 or 8 bits, everything else in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor, clear_unused, graph_of
from onnxopt.core.query import Model, constant, label, nodes
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array, borrow
from onnxopt.passes.base import Context, PassResult
from onnxopt.quantization.patterns import excluded
from onnxopt.quantization.weight_only.blocks import Bits, BlockGrid, Blocks
from onnxopt.quantization.weight_only.gptq import gptq
from onnxopt.quantization.weight_only.grams import Inputs, stream_grams
from onnxopt.quantization.weight_only.kernels import DOMAIN, attributes, constants, missing_kernels, operator
from onnxopt.quantization.weight_only.rounding import hqq, rtn
from onnxopt.quantization.weight_only.sites import Kind, Site, find_sites

__all__ = ["Algorithm", "WeightQuantize"]

Algorithm: TypeAlias = Literal["rtn", "hqq", "gptq"]


@dataclass(frozen=True)
class _Group:
    """The sites that share one weight in one orientation, and thus one rounded form."""

    weight: ir.Value
    transposed: bool
    sites: tuple[Site, ...]

    @property
    def inputs(self) -> Inputs:
        """What the weight is multiplied with."""
        values = [site.node.inputs[0] for site in self.sites if site.kind == "product"]
        return tuple(sorted({v.name for v in values if v is not None and v.name}))


@dataclass(frozen=True)
class WeightQuantize:
    """Rewrites MatMul and Gemm into MatMulNBits, Gather of a table into GatherBlockQuantized, at all depths.

    Attributes:
        algorithm: How codes are chosen. ``"gptq"`` needs data, and takes ``"hqq"`` for weights whose inputs it does not
            see: tables, nested graphs, functions.
        bits: Of a code.
        block_size: Weights that share a scale and a zero point.
        symmetric: The zero point is the middle of the grid.
        exclude: Shell-style patterns of node names, or op types, that stay float.
    """

    name: ClassVar[str] = "quantize-weights"
    lossy: ClassVar[bool] = True

    algorithm: Algorithm = "hqq"
    bits: Bits = 4
    block_size: int = 32
    symmetric: bool = False
    exclude: tuple[str, ...] = ()

    @property
    def grid(self) -> BlockGrid:
        """How weights are rounded."""
        return BlockGrid(self.bits, self.block_size, self.symmetric)

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Rewrites the nodes; ``changes`` counts them.

        Raises:
            UsageError: An exclusion pattern matches no node.
        """
        skip = excluded(nodes(model), self.exclude)
        sites, notes = find_sites(model, self.grid, skip, missing_kernels(self.grid, ctx))
        if not sites:
            return PassResult(model, 0, notes)
        groups = _groups(sites)
        writer = _Writer(model)
        found = list(notes)
        with ctx.progress.task(f"rounding weights ({self.algorithm})", len(groups)) as advance:
            for group, blocks, note in self._rounded(model, groups, ctx):
                writer.write(group, blocks)
                found += [] if note is None else [note]
                advance(1)
        return PassResult(model, len(sites), tuple(found))

    def _rounded(
        self, model: Model, groups: Sequence[_Group], ctx: Context
    ) -> Iterator[tuple[_Group, Blocks, Note | None]]:
        """Each group with its rounded weight; the model may be rewritten in between."""
        rest = list(groups)
        if self.algorithm == "gptq" and ctx.data is not None:
            seen = _seen(model, groups)
            rest = [group for group in groups if group not in seen]
            by_inputs: dict[Inputs, list[_Group]] = {}
            for group in seen:
                by_inputs.setdefault(group.inputs, []).append(group)
            wanted = [(inputs, of[0].sites[0].shape[1]) for inputs, of in by_inputs.items()]
            for inputs, gram in stream_grams(model.clone(), wanted, ctx.data, ctx):
                for group in by_inputs[inputs]:
                    weight = _matrix(group)
                    blocks = gptq(weight, gram, self.grid)
                    if blocks is not None:
                        yield group, blocks, None
                    else:
                        why = "rounded by hqq: its inputs on the data are all zero, or not finite"
                        yield group, hqq(weight, self.grid), Note(label(group.sites[0].node), "changed", why)
        for group in rest:
            weight = _matrix(group)
            yield group, (rtn if self.algorithm == "rtn" else hqq)(weight, self.grid), None


class _Writer:
    """Rewrites nodes of one model; mutable because it holds the names in use and the domains that are imported."""

    def __init__(self, model: Model) -> None:
        self.edit = Editor(model)
        self.roots = _imports(model)

    def write(self, group: _Group, blocks: Blocks) -> None:
        """Rewrites all nodes of a group; they share constants where one graph holds them all."""
        shared: dict[tuple[Kind, str, float], ir.Value] = {}
        for site in group.sites:
            arrays = constants(site.kind, blocks)
            inputs: list[ir.Value] = []
            for name, array in arrays.items():
                alpha = site.alpha if name == "scales" else 1.0
                key = site.kind, name, alpha
                value = shared.get(key)
                if value is None:
                    scaled = array if alpha == 1 else (array * np.float32(alpha)).astype(np.float32)
                    base = f"{site.weight.name or 'weight'}_int{blocks.grid.bits}_{name}"
                    value = self.edit.add_constant(base, scaled, before=site.node)
                    if site.weight.graph is site.node.graph:
                        shared[key] = value
                inputs.append(value)
            self._rewrite(site, blocks, inputs)
        clear_unused([group.weight])

    def _rewrite(self, site: Site, blocks: Blocks, values: Sequence[ir.Value]) -> None:
        node = site.node
        graph = graph_of(node)
        self.roots[id(graph)].setdefault(DOMAIN, 1)
        data = node.inputs[1] if site.kind == "table" else node.inputs[0]
        inputs = [values[0], data, *values[1:]] if site.kind == "table" else [data, *values]
        base = node.name or site.kind
        name = self.edit.fresh_name(f"{base}_{operator(site.kind)}")
        new = ir.Node(DOMAIN, operator(site.kind), inputs, attributes(site.kind, blocks), num_outputs=1, name=name)
        new.outputs[0].name = self.edit.fresh_name(f"{base}_product")
        graph.insert_before(node, new)
        result = new.outputs[0]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            # An Add of its own: ONNX Runtime takes it into MatMulNBits, and releases before 1.20 know no bias there.
            result.type = node.outputs[0].type
            result = self.edit.insert("Add", [result, bias], before=node, base=f"{base}_biased")
        result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
        self.edit.replace_node(node, [result])


def _groups(sites: Sequence[Site]) -> list[_Group]:
    found: dict[tuple[ir.Value, bool], list[Site]] = {}
    for site in sites:
        found.setdefault((site.weight, site.transposed), []).append(site)
    return [_Group(weight, transposed, tuple(own)) for (weight, transposed), own in found.items()]


def _seen(model: Model, groups: Sequence[_Group]) -> list[_Group]:
    """The groups of products of the main graph only: what these read can be tapped."""
    return [g for g in groups if all(s.kind == "product" and s.node.graph is model.graph for s in g.sites) and g.inputs]


def _matrix(group: _Group) -> Array:
    """The weight (rows, columns) float32, a copy."""
    tensor = constant(group.weight)
    if tensor is None:
        raise ValueError(f"{group.weight.name!r} is not constant")
    with borrow(tensor) as array:
        return np.array(array.T if group.transposed else array, np.float32, order="C")


def _imports(model: Model) -> Mapping[int, dict[str, int]]:
    """The operator sets that each graph imports, by its identity; nested graphs share those of the root."""
    roots = [(model.graph, model.graph.opset_imports)]
    roots += [(function.graph, function.opset_imports) for function in model.functions.values()]
    return {id(graph): imports for root, imports in roots for graph in (root, *root.subgraphs())}
