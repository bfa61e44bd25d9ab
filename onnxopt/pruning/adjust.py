"""What must follow when channels go, besides the constants: sizes, bounds, indices and attributes of nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxopt.core.edit import Editor
from onnxopt.passes.constants import array_of
from onnxopt.pruning.channels import Axis, Ids
from onnxopt.pruning.shape_elements import rewritten
from onnxopt.pruning.walk import Alive, Walk

__all__ = ["CountAttribute", "GatherIndices", "ShapeEntries", "SliceBounds", "SplitSizes"]


@dataclass(frozen=True, eq=False)
class CountAttribute:
    """An integer attribute that counts channels, groups or heads.

    Attributes:
        node: The node.
        name: The attribute.
        ids: One id for each thing that is counted.
    """

    node: ir.Node
    name: str
    ids: Ids

    def apply(self, edit: Editor, alive: Alive) -> None:
        """Sets the attribute to the number that stays."""
        del edit
        self.node.attributes[self.name] = ir.AttrInt64(self.name, int(alive(self.ids).sum()))


@dataclass(frozen=True, eq=False)
class ShapeEntries:
    """Entries of a shape tensor that are numbers in the file.

    Attributes:
        node: The node that reads the shape.
        index: Which input it is.
        entries: Position in the tensor -> ids of the axis it states the size of.
        walk: Knows how long shape tensors are.
    """

    node: ir.Node
    index: int
    entries: dict[int, Ids]
    walk: Walk

    def apply(self, edit: Editor, alive: Alive) -> None:
        """Gives the node a shape of its own where a size changes."""
        counts = {position: int(alive(ids).sum()) for position, ids in self.entries.items()}
        changes = {position: count for position, count in counts.items() if count != len(self.entries[position])}
        value = self.node.inputs[self.index]
        if changes and value is not None:
            self.node.replace_input_with(self.index, rewritten(value, changes, edit, self.node, self.walk))


@dataclass(frozen=True, eq=False)
class SplitSizes:
    """The sizes of the parts of a Split.

    Attributes:
        node: The Split.
        parts: Ids of each part.
        opset: Decides whether the sizes are an attribute or an input.
    """

    node: ir.Node
    parts: tuple[Ids, ...]
    opset: int

    def apply(self, edit: Editor, alive: Alive) -> None:
        """Writes the sizes out."""
        sizes = [int(alive(part).sum()) for part in self.parts]
        if sizes == [len(part) for part in self.parts]:
            return
        if self.opset < 13:
            self.node.attributes["split"] = ir.AttrInt64s("split", sizes)
            return
        self.node.attributes.pop("num_outputs", None)
        if len(self.node.inputs) < 2:
            self.node.resize_inputs(2)
        constant = edit.add_constant(f"{self.node.name}_split", np.array(sizes, np.int64), before=self.node)
        self.node.replace_input_with(1, constant)


@dataclass(frozen=True, eq=False)
class SliceBounds:
    """The bounds of a Slice with step 1 along axes that are cut.

    Attributes:
        node: The Slice.
        axes: Position in the lists of bounds -> (ids of the axis before it, start, end), counted from the front.
        opset: Decides whether the bounds are attributes or inputs.
    """

    node: ir.Node
    axes: dict[int, tuple[Ids, int, int]]
    opset: int

    def apply(self, edit: Editor, alive: Alive) -> None:
        """Moves both bounds to the channels that stay."""
        for which, name in enumerate(("starts", "ends")):
            if self.opset < 10:
                bounds = np.array(list(self.node.attributes.get_ints(name) or ()), np.int64)
            else:
                found = array_of(self.node.inputs[1 + which])
                if found is None:
                    raise ValueError(f"the {name} of {self.node.name!r} are not constant")
                bounds = found.reshape(-1)
            before = bounds.copy()
            for position, (ids, start, end) in self.axes.items():
                bounds[position] = int(alive(ids[: (start, end)[which]]).sum())
            if (bounds == before).all():
                continue
            if self.opset < 10:
                self.node.attributes[name] = ir.AttrInt64s(name, bounds.tolist())
            else:
                constant = edit.add_constant(f"{self.node.name}_{name}", bounds, before=self.node)
                self.node.replace_input_with(1 + which, constant)


@dataclass(frozen=True, eq=False)
class GatherIndices:
    """The constant indices of a Gather along an axis that is cut.

    Attributes:
        node: The Gather.
        ids: Ids of the axis.
    """

    node: ir.Node
    ids: Ids

    def apply(self, edit: Editor, alive: Alive) -> None:
        """Leaves out the indices of channels that go, and renumbers the others."""
        indices = array_of(self.node.inputs[1])
        if indices is None:
            raise ValueError(f"the indices of {self.node.name!r} are not constant")
        stays = alive(self.ids)
        if stays.all():
            return
        wanted = np.where(indices < 0, indices + len(self.ids), indices)
        renumbered = (np.cumsum(stays) - 1).astype(indices.dtype)
        new = renumbered[wanted] if indices.ndim == 0 else renumbered[wanted[stays[wanted]]]
        constant = edit.add_constant(f"{self.node.name}_indices", np.asarray(new), before=self.node)
        self.node.replace_input_with(1, constant)


def pieces(axis: Axis, sizes: list[int]) -> list[Axis]:
    """The ids of consecutive parts of an axis."""
    if axis is None:
        return [None] * len(sizes)
    return list(np.split(axis, np.cumsum(sizes)[:-1]))
