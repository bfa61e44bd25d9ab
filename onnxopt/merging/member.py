"""A model that takes part in an ensemble: its file, what it takes and what it gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt.core.query import Model, TensorSpec, input_specs, output_specs
from onnxopt.core.tensors import Array
from onnxopt.errors import ModelError, UsageError, nearest
from onnxopt.merging.adapt import Adapter
from onnxopt.passes.base import Context
from onnxopt.passes.cleanup.freeze import FreezeDefaults
from onnxopt.run.session import Feeds

__all__ = ["Member", "prepare", "prepare_stage", "titles"]

BOX = re.compile(r"(?i)(^|[^a-z])b?box(es)?([^a-z]|$)|detection|(^|[^a-z])nms")
SUPPRESSION = frozenset({"NonMaxSuppression", "BatchedNMS_TRT", "EfficientNMS_TRT", "RoiAlign"})
FLOATS = frozenset({"float16", "float32", "float64", "bfloat16"})


@dataclass(frozen=True)
class Member:
    """One model of an ensemble.

    Attributes:
        title: What reports call it.
        path: The file as given.
        model: What is in it, ready to be joined: no default inputs, no ZipMap at the chosen output.
        output: Name of the output that takes part.
        feeds: Name of each of its inputs -> name of the shared input that feeds it.
        adapters: Name of an input -> what is done to the shared input first.
        is_changed: Whether the chosen output is no output of the file, so that the file itself cannot give it.
    """

    title: str
    path: Path
    model: Model
    output: str
    feeds: Mapping[str, str] = field(default_factory=dict[str, str])
    adapters: Mapping[str, Adapter] = field(default_factory=dict[str, Adapter])
    is_changed: bool = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What must be fed."""
        return input_specs(self.model)

    @property
    def spec(self) -> TensorSpec:
        """The output that takes part."""
        return next(spec for spec in output_specs(self.model) if spec.name == self.output)

    @property
    def value(self) -> ir.Value:
        """The same as a value of the graph."""
        return next(value for value in self.model.graph.outputs if value.name == self.output)

    @property
    def is_plain(self) -> bool:
        """Whether its file takes the shared inputs and gives the output as they are."""
        return not self.is_changed and not self.adapters and all(a == b for a, b in self.feeds.items())

    def feed(self, shared: Feeds) -> dict[str, Array]:
        """The arrays of one call, made from the shared ones."""
        found: dict[str, Array] = {}
        for spec in self.inputs:
            array = shared[self.feeds[spec.name]]
            adapter = self.adapters.get(spec.name)
            found[spec.name] = array if adapter is None else adapter.compute(array, spec)
        return found


def titles(paths: Sequence[Path]) -> tuple[str, ...]:
    """A name for each file: its own where that tells them apart, else numbered."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{i}:{name}" for i, name in enumerate(names, 1))


def prepare_stage(title: str, path: Path, model: Model) -> Member:
    """The member of a series in ``model``, which is changed; all its outputs stay.

    Raises:
        ModelError: The model has state.
    """
    model = FreezeDefaults().run(model, Context(path.parent)).model
    _refuse_state(title, model)
    return Member(title, path, model, model.graph.outputs[0].name or "")


def prepare(title: str, path: Path, model: Model, output_name: str | None) -> Member:
    """The member in ``model``, which is changed, with its output chosen.

    Args:
        title: What reports call it.
        path: Its file.
        model: The model in the file.
        output_name: The output that takes part; default: the first that holds floating-point numbers.

    Raises:
        UsageError: There is no output of that name.
        ModelError: The model has state, gives boxes, or no output that can be combined.
    """
    model = FreezeDefaults().run(model, Context(path.parent)).model
    _refuse_state(title, model)
    values = list(model.graph.outputs)
    if output_name is not None and output_name not in [v.name for v in values]:
        known = [v.name or "" for v in values]
        raise UsageError(
            f"{title} has no output {output_name!r}", where="--output-name", fix=nearest(output_name, known)
        )
    wanted = [v for v in values if output_name in (None, v.name)]
    for value in wanted:
        inner = _behind_zip_map(value)
        chosen = inner or value
        if output_name is not None or _is_floating(chosen):
            _refuse_boxes(title, model, chosen)
            _require_combinable(title, chosen)
            is_changed = inner is not None and not inner.is_graph_output()
            model.graph.outputs.clear()
            model.graph.outputs.append(chosen)
            return Member(title, path, model, chosen.name or "", is_changed=is_changed)
    described = "; ".join(str(spec) for spec in output_specs(model))
    raise ModelError(
        "no output holds floating-point numbers, which is what can be combined",
        where=f"{title}, outputs {described}",
        fix="export the model with its scores as an output",
    )


def _is_floating(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.dtype is not None and value.dtype.is_floating_point()


def _behind_zip_map(value: ir.Value) -> ir.Value | None:
    """The array behind a ZipMap, which scikit-learn's converter puts at the end."""
    node = value.producer()
    if node is None or node.op_type != "ZipMap" or node.inputs[0] is None:
        return None
    inner = node.inputs[0]
    inner.type = inner.type or ir.TensorType(ir.DataType.FLOAT)
    return inner


def _require_combinable(title: str, value: ir.Value) -> None:
    if _is_floating(value) and np.dtype(value.dtype.numpy() if value.dtype else np.void).name in FLOATS:
        return
    kind = "no tensor" if value.dtype is None else value.dtype.name.lower()
    raise ModelError(
        f"output {value.name!r} cannot be combined: it is {kind}, not floating-point numbers",
        where=title,
        fix="choose an output with scores or values with --output-name",
    )


def _refuse_boxes(title: str, model: Model, value: ir.Value) -> None:
    """Boxes of two detectors do not belong to each other row by row, so no mean or vote of them means anything."""
    suppressing = next((n for n in _ancestors(value) if n.op_type in SUPPRESSION), None)
    named = next((v for v in model.graph.outputs if BOX.search(v.name or "")), None)
    if suppressing is None and named is None:
        return
    seen = f"operator {suppressing.op_type}" if suppressing is not None else f"output {named.name!r}" if named else ""
    raise ModelError(
        f"the model finds boxes ({seen}): row i of one detector and row i of another are different objects, so they "
        "cannot be averaged or voted on",
        where=f"{title}, output {value.name!r}",
        fix="run the detectors one by one and fuse their boxes by overlap (weighted boxes fusion) outside the model",
    )


RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
PASS_ON = frozenset(
    {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Slice", "Split", "Gather", "Expand", "Concat"}
)
STATE = re.compile(
    r"(?i)(^|[^a-z])(state|hidden|cell|past|present|cache|[hc][_]?(0|n|in|out)?)(n|s|_in|_out)?([^a-z]|$)"
)


def _refuse_state(title: str, model: Model) -> None:
    """An ensemble has no place for what a call hands to the next one."""
    for value in model.graph.inputs:
        by = _recurrent_reader(value)
        back = next((o.name for o in model.graph.outputs if _may_hand_on(value, o)), None)
        if by is not None or (back is not None and STATE.search(value.name or "")):
            seen = f"it starts {by}" if by is not None else f"output {back!r} hands it to the next call"
            raise ModelError(
                f"input {value.name!r} is a state ({seen}): calls of this model depend on each other",
                where=title,
                fix="export the model without state inputs (states that start at zero inside), or run it by itself",
            )


def _recurrent_reader(value: ir.Value) -> str | None:
    """The recurrent operator whose first state comes from ``value``, through changes of shape only."""
    waiting, seen = [value], {id(value)}
    while waiting:
        for node, index in waiting.pop().uses():
            if node.op_type in RECURRENT and index in (5, 6):
                return node.op_type
            if node.op_type in PASS_ON and index == 0:
                fresh = [o for o in node.outputs if id(o) not in seen]
                seen.update(id(o) for o in fresh)
                waiting.extend(fresh)
    return None


def _may_hand_on(value: ir.Value, output: ir.Value) -> bool:
    """Whether an output has the type and shape of an input, and a name that says state too."""
    if value.type != output.type or value.shape is None or output.shape is None or not STATE.search(output.name or ""):
        return False
    sizes = zip(value.shape, output.shape, strict=False)
    return len(value.shape) == len(output.shape) and all(
        a == b for a, b in sizes if isinstance(a, int) and isinstance(b, int)
    )


def _ancestors(value: ir.Value) -> Iterable[ir.Node]:
    """All nodes of the main graph that ``value`` depends on, bodies of control flow included."""
    start = value.producer()
    waiting = [] if start is None else [start]
    seen = {id(node) for node in waiting}
    while waiting:
        node = waiting.pop()
        yield node
        inner = [
            n for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH for n in a.as_graph().all_nodes()
        ]
        yield from inner
        for read in (v for n in (node, *inner) for v in n.inputs):
            source = None if read is None else read.producer()
            if source is not None and id(source) not in seen:
                seen.add(id(source))
                waiting.append(source)
