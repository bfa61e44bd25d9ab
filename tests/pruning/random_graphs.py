"""Random graphs over a pool of values of known shapes: what a chain of operators does not show, their joins do.

Hypothesis draws a seed and a number of steps; the rest follows from the seed, step by step. So all choices are equally
likely, and a failing graph is shrunk to the first steps that fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
RECENT = 6
"""Values that a step chooses from, the newest: so graphs get deep."""


@dataclass
class Build:
    """A graph under construction; mutable because every step adds to it.

    Attributes:
        opset: Version of the default operator set.
        rng: Choices, and numbers of the weights.
        shapes: Name of a value -> shape, in graph order.
        parent: The graph around this body.
    """

    opset: int
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    shared: dict[tuple[str, Shape], str] = field(default_factory=dict)
    parent: Build | None = None

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, percent: int) -> bool:
        return self.number(0, 99) >= 100 - percent

    def one_of(self, *options):
        return options[self.rng.integers(len(options))]

    def name(self) -> str:
        outer = self
        while outer.parent is not None:
            outer = outer.parent
        return f"v{len(outer.shapes)}"

    def op(self, kind: str, inputs: Sequence[str], *shapes: Shape, domain: str = "", **attributes: object):
        """Adds a node; returns the names of its outputs, one of them alone where there is one."""
        outputs: list[str] = []
        for shape in shapes:
            output = self.name()
            outer: Build | None = self
            while outer is not None:  # names are unique over all graphs
                outer.shapes[output] = tuple(shape)
                outer = outer.parent
            outputs.append(output)
            if self.parent is not None:
                self.parent.used.add(output)
        self.used.update(inputs)
        self.nodes.append(helper.make_node(kind, inputs, outputs, f"{kind}_{outputs[0]}", domain=domain, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def hidden(self, kind: str, *inputs: str) -> str:
        """A node whose output, no floats, only the next step reads."""
        output = f"h{len(self.nodes)}_{inputs[0]}"
        self.used.update(inputs)
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{kind}_{output}"))
        return output

    def same(self, kind: str, value: str, *more: str, **attributes: object) -> str:
        """A node whose output is like its first input."""
        return self.op(kind, [value, *more], self.shapes[value], **attributes)

    def weight(self, *shape: int, fan: int = 0, positive: bool = False) -> str:
        """A constant of floats; now and then one that is there already, or the output of a Constant node."""
        key = ("positive" if positive else "any", shape)
        if key in self.shared and self.chance(15):
            return self.shared[key]
        numbers = self.rng.standard_normal(shape) / math.sqrt(max(fan, 1))
        numbers = (np.abs(numbers) + 0.5 if positive else numbers).astype(np.float32)
        self.shared[key] = self.tensor(numbers)
        return self.shared[key]

    def ints(self, *numbers: int) -> str:
        return self.tensor(np.array(numbers, np.int64))

    def tensor(self, array: np.ndarray) -> str:
        name = f"c{self.rng.integers(1 << 40)}"
        tensor = numpy_helper.from_array(np.asarray(array), name)
        if self.chance(15):
            self.nodes.append(helper.make_node("Constant", [], [name], f"Constant_{name}", value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def value(self, rank: int, fits: Callable[[Shape], bool] = lambda shape: True) -> str | None:
        """One of the newest values of a rank, more often one that nothing reads yet."""
        found = [n for n, s in self.shapes.items() if len(s) == rank and fits(s)][-RECENT:]
        unread = [n for n in found if n not in self.used]
        if unread and self.chance(70):
            return self.one_of(*unread)
        return self.one_of(*found) if found else None

    def alike(self, value: str) -> str:
        """Another value of the same shape, or one made of it."""
        shape = self.shapes[value]
        others = [n for n, s in self.shapes.items() if s == shape and n != value]
        if others and self.chance(75):
            return self.one_of(*others)
        if len(shape) == 4:
            return self.op("Conv", [value, self.weight(shape[1], shape[1], 1, 1, fan=shape[1])], shape)
        return self.op("MatMul", [value, self.weight(shape[-1], shape[-1], fan=shape[-1])], shape)


@dataclass(frozen=True)
class Case:
    """A model, and inputs for it."""

    proto: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    seed: int

    def __repr__(self) -> str:
        return f"seed {self.seed}\n{onnx.printer.to_text(self.proto)}"


def head(build: Build, value: str) -> str:
    """A linear layer over a value, so that what is before it may be cut."""
    shape = build.shapes[value]
    if len(shape) == 4 and build.chance(50):
        value = build.op("GlobalAveragePool", [value], (*shape[:2], 1, 1))
    elif len(shape) == 3:
        return build.op("MatMul", [value, build.weight(shape[2], 5, fan=shape[2])], (*shape[:2], 5))
    size = math.prod(build.shapes[value][1:])
    flat = value if len(shape) == 2 else build.op("Flatten", [value], (shape[0], size))
    return build.op("Gemm", [flat, build.weight(5, size, fan=size), build.weight(5)], (shape[0], 5), transB=1)


Steps = Sequence[tuple[Callable[[Build], object], int]]


def graphs(steps: Steps) -> st.SearchStrategy[Case]:
    """Models of up to 16 steps, each with a weight, on an image, a sequence or both."""
    return st.builds(random_graph, st.just(steps), st.integers(0, (1 << 30) - 1), st.integers(4, 16))


def random_graph(steps: Steps, seed: int, count: int) -> Case:
    """The model that a seed stands for."""
    rng = np.random.default_rng(seed)
    build = Build(int(rng.integers(11, 22)), rng)
    batch = build.number(1, 2)
    inputs: dict[str, Shape] = {}
    kinds = build.one_of("image", "image", "sequence", "both")
    if kinds != "sequence":
        inputs["x"] = (batch, 3, build.one_of(4, 6, 8), build.one_of(4, 8))
    if kinds != "image":
        inputs["s"] = (batch, build.number(2, 5), build.one_of(4, 6))
    build.shapes.update(inputs)
    for name, shape in inputs.items():
        size = build.one_of(6, 8, 12)
        if len(shape) == 4:
            build.op("Conv", [name, build.weight(size, 3, 1, 1, fan=3)], (batch, size, *shape[2:]))
        else:
            build.op("MatMul", [name, build.weight(shape[2], size, fan=shape[2])], (*shape[:2], size))
    choices = [step for step, weight in steps for _ in range(weight)]
    for _ in range(count):
        before = len(build.nodes)
        while len(build.nodes) == before:  # a step that finds no value of its rank adds nothing
            build.one_of(*choices)(build)
    leaves = [n for n in build.shapes if n not in build.used and n not in inputs]
    outputs = [leaf if build.chance(10) else head(build, leaf) for leaf in leaves]
    if build.chance(15):
        outputs.append(build.one_of(*[n for n in build.shapes if n not in inputs]))
    proto = _model(build, inputs, list(dict.fromkeys(outputs)))
    feeds = {n: build.rng.standard_normal(s).astype(np.float32) for n, s in inputs.items()}
    return Case(proto, feeds, seed)


def _model(build: Build, inputs: dict[str, Shape], outputs: Sequence[str]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    local = {o for node in build.nodes for o in node.output}
    graph = helper.make_graph(
        build.nodes,
        "random",
        [value(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [value(n, TensorProto.FLOAT, [None] * len(build.shapes[n])) for n in outputs if n in local],
        build.initializers,
    )
    imports = [helper.make_opsetid("", build.opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)
