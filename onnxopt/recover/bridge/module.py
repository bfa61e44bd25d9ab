"""The graph as a torch module: each node becomes a closure once, and a step runs the closures in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from onnxopt.core.query import Model, label
from onnxopt.core.shapes import infer_shapes
from onnxopt.core.tensors import Array
from onnxopt.errors import ModelError, nearest
from onnxopt.passes.constants import tensor_of
from onnxopt.passes.rewrite.inline import InlineFunctions
from onnxopt.recover.bridge.grid import Grid
from onnxopt.recover.bridge.ops.blocks import block_product, product_grid
from onnxopt.recover.bridge.ops.quantize import spread
from onnxopt.recover.bridge.registry import find
from onnxopt.recover.bridge.site import Function, Site
from onnxopt.recover.bridge.types import INTEGER_RANGE, Types, array_of
from onnxopt.recover.bridge.weights import Found, find_weights
from onnxopt.recover.bridge.writing import Weight, writable, write_weights

__all__ = ["Bridge", "Weight"]

MISSING = 0
"""The slot of an input that is left out."""


@dataclass(frozen=True)
class _Step:
    run: Function
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    where: str


class Bridge(torch.nn.Module):
    """Runs the main graph of a model on torch tensors; its parameters are the weights of the graph.

    Mutable as torch modules are: training changes the parameters.

    Attributes:
        weights: The trained constants, in the order in which the graph reads them.

    Args:
        model: The model; it is not changed.
        outputs: Names of the values to compute; default: the outputs of the graph. What they do not need is left out.
        promote: Compute 16-bit floats in float32.
        train: Whether constants become parameters.
        device: Where it runs.

    Raises:
        ModelError: A node that the outputs need is of an operator that is not known here, or in a form that is not.
        ModelError: There is no value of such a name.
    """

    def __init__(
        self,
        model: Model,
        *,
        outputs: Sequence[str] | None = None,
        promote: bool = True,
        train: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self._types, self._device = Types(promote=promote), torch.device(device)
        own = InlineFunctions().inline(model.clone()).model
        own.graph.sort()
        infer_shapes(own)
        graph = own.graph
        values = _values(graph)
        names = [v.name or "" for v in graph.outputs] if outputs is None else list(outputs)
        for name in names:
            if name not in values:
                raise ModelError(f"the graph has no value {name!r}", where="its outputs", fix=nearest(name, values))
        self._slots: dict[ir.Value | None, int] = {None: MISSING}
        self._template: list[Tensor | None] = [None]
        self._steps: list[_Step] = []
        self._inputs = {v.name or "": self._slot(v) for v in graph.inputs if v.name not in graph.initializers}
        needed = _needed([values[name] for name in names])
        found = find_weights(own) if train else {}
        written = writable(model)
        self.weights: list[Weight] = []
        self._parameter_slots: list[int] = []
        self._grids: list[Grid | None] = []
        self._compile(own, needed, {v: f for v, f in found.items() if v.name in written})
        self._outputs = {name: (self._slots[values[name]], values[name].dtype) for name in names}
        self.parameters_by_name = torch.nn.ParameterList([w.parameter for w in self.weights])

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for inputs of the graph.

        Raises:
            ModelError: A node cannot take what it is given.
        """
        env = list(self._template)
        for name, slot in self._inputs.items():
            if name in feeds:
                env[slot] = feeds[name]
        for slot, grid, weight in zip(self._parameter_slots, self._grids, self.weights, strict=True):
            env[slot] = weight.parameter if grid is None else grid.snapped(weight.parameter)
        for step in self._steps:
            self._take(step, env)
        found: dict[str, Tensor] = {}
        for name, (slot, _) in self._outputs.items():
            value = env[slot]
            if value is None:
                raise ModelError(f"input {name!r} is not fed", where="the inputs of the graph", fix="feed every input")
            found[name] = value
        return found

    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        """Inputs as tensors on the device of the module."""
        return {name: self._types.array(array).to(self._device) for name, array in arrays.items()}

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs as arrays in the types that the graph declares, without gradients."""
        with torch.no_grad():
            found = self(self.feed(arrays))
        return {name: array_of(value, self._outputs[name][1]) for name, value in found.items()}

    def write(self, model: Model) -> int:
        """Puts the weights into the constants of ``model`` that they came from; the number of those that changed."""
        return write_weights(model, self.weights)

    def _slot(self, value: ir.Value, content: Tensor | None = None) -> int:
        if value not in self._slots:
            self._slots[value] = len(self._template)
            self._template.append(None)
        slot = self._slots[value]
        if content is not None:
            self._template[slot] = content
        return slot

    def _compile(self, model: Model, needed: set[ir.Node], weights: Mapping[ir.Value, Found]) -> None:
        graph = model.graph
        live = {v for v in graph.inputs if v.name not in graph.initializers}
        pending = {f.coder: f for f in weights.values() if f.coder is not None}
        for node in graph:
            if node not in needed or any(v in weights and weights[v].coder is None for v in node.outputs):
                continue
            for value in node.inputs:
                if value is None or value in self._slots:
                    continue
                if value in weights and weights[value].coder is None:
                    live.add(value)
                    self._add(weights[value], None)
                else:
                    self._constant(value, node)
            site = self._site(node, model)
            if node in pending:
                live.update(node.outputs)
                self._steps.append(self._coded(pending[node], site))
                continue
            step = _Step(find(site)(site), self._input_slots(node), self._output_slots(node), site.where)
            if any(v in live for v in node.inputs):
                live.update(node.outputs)
                self._steps.append(step)
            else:
                with torch.no_grad():
                    self._take(step, self._template)
                for slot in step.outputs:
                    content = self._template[slot]
                    self._template[slot] = None if content is None else content.to(self._device)
        for value in graph.outputs:
            if value.producer() is None and value not in self._slots and tensor_of(value) is not None:
                self._constant(value, None)

    def _site(self, node: ir.Node, model: Model) -> Site:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = model.graph.opset_imports.get(domain, 1)
        constants = tuple(self._template[self._slots[v]] if v in self._slots else None for v in node.inputs)
        return Site(node, version, self._types, constants)

    def _constant(self, value: ir.Value, reader: ir.Node | None) -> None:
        tensor = tensor_of(value)
        where = f"constant {value.name!r}" + ("" if reader is None else f", read by node {label(reader)!r}")
        if tensor is None:
            raise ModelError(f"nothing gives the value {value.name!r}", where=where, fix="export the model again")
        self._slot(value, self._types.tensor(tensor, where).to(self._device))

    def _add(self, found: Found, grid: Grid | None) -> torch.nn.Parameter:
        value, tensor = found.value, tensor_of(found.value)
        if tensor is None:
            raise ModelError(f"nothing gives the value {value.name!r}", where="weights", fix="export the model again")
        content = self._types.tensor(tensor, f"weight {value.name!r}").to(self._device)
        parameter = torch.nn.Parameter(content if grid is None else grid.decoded(content))
        readers = tuple((label(use.node), use.node.op_type) for use in value.uses())
        if found.coder is not None and found.coder.op_type == "DequantizeLinear":
            readers += tuple((label(use.node), use.node.op_type) for use in found.coder.outputs[0].uses())
        self.weights.append(Weight(value.name or "", parameter, grid, tensor.dtype, readers))
        self._parameter_slots.append(self._slot(value) if grid is None else self._extra_slot())
        self._grids.append(grid)
        return parameter

    def _extra_slot(self) -> int:
        self._template.append(None)
        return len(self._template) - 1

    def _coded(self, found: Found, site: Site) -> _Step:
        """The step of a node whose integer codes are trained: the weight takes the place of what they stand for."""
        node = site.node
        if node.op_type == "MatMulNBits":
            self._add(found, product_grid(site))
            inputs = list(self._input_slots(node))
            inputs[1] = self._parameter_slots[-1]
            return _Step(block_product(site), tuple(inputs), self._output_slots(node), site.where)
        scale, zero = site.constant(1), site.constant(2)
        tensor = tensor_of(found.value)
        if scale is None or tensor is None or (site.has(2) and zero is None):
            raise site.refuse("the scale of a weight is computed", "export the model with constant scales")
        shape = torch.Size(int(n) for n in tensor.shape.numpy())
        axis, block = site.int("axis", 1), site.int("block_size", 0)
        wide = scale.float() if self._types.promote else scale
        step = spread(wide, shape, axis, block)
        start = None if zero is None else spread(zero, shape, axis, block).to(wide.dtype)
        self._add(found, Grid(step, start, *INTEGER_RANGE[tensor.dtype]))
        return _Step(_same, (self._parameter_slots[-1],), self._output_slots(node), site.where)

    def _input_slots(self, node: ir.Node) -> tuple[int, ...]:
        return tuple(self._slots[v] for v in node.inputs)

    def _output_slots(self, node: ir.Node) -> tuple[int, ...]:
        return tuple(self._slot(v) for v in node.outputs)

    def _take(self, step: _Step, env: list[Tensor | None]) -> None:
        try:
            found = step.run(*[env[slot] for slot in step.inputs])
        except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split())[:300]
            raise ModelError(
                f"the graph cannot be run in torch: {said}",
                where=step.where,
                fix="check the shapes of the data, or leave this part out of training",
            ) from error
        if isinstance(found, Tensor):
            env[step.outputs[0]] = found
            return
        for slot, value in zip(step.outputs, found, strict=False):
            env[slot] = value


def _same(value: Tensor) -> Tensor:
    return value


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    found = {v.name or "": v for v in (*graph.inputs, *graph.initializers.values())}
    return found | {v.name: v for node in graph for v in node.outputs if v.name}


def _needed(values: Sequence[ir.Value]) -> set[ir.Node]:
    """The nodes that ``values`` depend on."""
    found: set[ir.Node] = set()
    left = [v.producer() for v in values]
    while left:
        node = left.pop()
        if node is None or node in found:
            continue
        found.add(node)
        left += [v.producer() for v in node.inputs if v is not None]
    return found
