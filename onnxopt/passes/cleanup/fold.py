"""Computes what is constant once, with the kernels of ONNX Runtime that would compute it at every start.

Own code in place of ``onnxscript.optimizer.fold_constants``, which computes with other kernels than the runtime
(values differ in the last bits), applies the main graph's opset inside functions, takes attributes that a function's
caller decides for absent, folds Bernoulli and a training Dropout, and reports neither counts nor reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from onnxopt.core.edit import Editor, remove_node
from onnxopt.core.query import Model, label
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array, tensor_bytes
from onnxopt.passes.base import Context, PassResult
from onnxopt.passes.constants import array_of, is_op, is_random, scopes, tensor_of
from onnxopt.passes.shapes import DerivedShapes

__all__ = ["FoldConstants"]

KEPT = frozenset({"Constant", "Identity", "DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
"""Constants themselves, what another pass removes, and what says how a weight is quantized."""
SMALL = 4096
"""Elements up to which a constant input is put into the evaluated model, so that shapes can be inferred from it."""
IR_VERSION = 10
POINTER_BITS = 64


@dataclass(frozen=True)
class FoldConstants:
    """Nodes whose inputs are all constant, and Shape and Size of values with a fixed shape.

    Attributes:
        max_growth_bytes: Bytes that the outputs of a folded node may need beyond the constants that go.
    """

    name: ClassVar[str] = "fold-constants"
    lossy: ClassVar[bool] = False
    max_growth_bytes: int = 65536

    def run(self, model: Model, ctx: Context) -> PassResult:
        """Replaces such nodes by their value, in graph order; each counts as one change."""
        del ctx
        editor, shapes, count, notes = Editor(model), DerivedShapes(model), 0, list[Note]()
        for graph, opset in scopes(model):
            for node in graph:
                if node.domain != "" or node.op_type in KEPT or not node.inputs:
                    continue
                outcome = _value_of_shape(node, shapes) or self._evaluate(node, opset)
                if isinstance(outcome, list) and _decides_if(node):
                    outcome = "decides an If; ONNX Runtime refuses some models once it sees which branch is taken"
                if isinstance(outcome, str):
                    notes.append(Note(label(node), "kept", outcome))
                elif outcome is not None:
                    _replace(editor, node, outcome)
                    count += 1
        return PassResult(model, count, tuple(notes))

    def _evaluate(self, node: ir.Node, opset: int) -> list[Array] | str | None:
        """The outputs, a reason why a constant node is kept, or ``None`` when the node is not constant."""
        present = [value for value in node.inputs if value is not None]
        tensors = [tensor_of(value) for value in present]
        if not present or any(tensor is None for tensor in tensors):
            return None
        if is_random(node):
            return "draws random numbers"
        if any(a.is_ref() for a in node.attributes.values()):
            return "an attribute is decided by the caller of the function"
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            return "is control flow"
        numpy_types = [tensor is not None and _is_numpy(tensor.dtype) for tensor in tensors]
        if not all(numpy_types):
            return "numpy has no arrays of an input's element type"
        sole = [len(value.uses()) == 1 for value in present]
        freed = sum(tensor_bytes(t) for t, only in zip(tensors, sole, strict=True) if t is not None and only)
        arrays = [array_of(value) for value in node.inputs]
        proto = _single_node_model(node, arrays, opset)
        limit = freed + self.max_growth_bytes
        needed = _inferred_bytes(proto)
        if needed <= limit:
            feeds = {f"i{n}": a for n, a in enumerate(arrays) if a is not None and a.size > SMALL}
            outputs = _run(proto, feeds)
            if isinstance(outputs, str):
                return outputs
            needed = sum(output.nbytes for output in outputs)
            if needed <= limit:
                return outputs
        return f"its value of {needed} bytes would make the file grow by more than {self.max_growth_bytes}"


def _decides_if(node: ir.Node, depth: int = 4) -> bool:
    """Whether the node, or what is computed from it and constants alone, is the condition of an If."""
    for use in (use for output in node.outputs for use in output.uses()):
        if is_op(use.node, "If") and use.idx == 0:
            return True
        others = (value for value in use.node.inputs if value is not None and value.producer() is not node)
        if depth and all(tensor_of(value) is not None for value in others) and _decides_if(use.node, depth - 1):
            return True
    return False


def _is_numpy(dtype: ir.DataType) -> bool:
    return dtype == ir.DataType.STRING or (dtype.numpy().kind in "biufc" and dtype.numpy().isbuiltin == 1)


def _value_of_shape(node: ir.Node, shapes: DerivedShapes) -> list[Array] | None:
    """Of Shape and Size, when the sizes asked for are fixed."""
    if node.op_type not in ("Shape", "Size") or any(a.is_ref() for a in node.attributes.values()):
        return None
    shape = shapes.of(node.inputs[0])
    if shape is None:
        return None
    if "start" in node.attributes or "end" in node.attributes:
        start = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else len(shape)
        rank = len(shape)
        bounds = [min(max(at + rank if at < 0 else at, 0), rank) for at in (start, end)]
        shape = shape[bounds[0] : bounds[1]]
    sizes = [size for size in shape if size is not None]
    if len(sizes) < len(shape):
        return None
    if node.op_type == "Size":
        return [np.array(np.prod(sizes, dtype=np.int64), np.int64)]
    return [np.array(sizes, np.int64)]


def _single_node_model(node: ir.Node, arrays: list[Array | None], opset: int) -> onnx.ModelProto:
    proto = ir.to_proto(node)
    assert isinstance(proto, onnx.NodeProto)
    proto.input[:] = [f"i{n}" if array is not None else "" for n, array in enumerate(arrays)]
    proto.output[:] = [f"o{n}" if output.name else "" for n, output in enumerate(node.outputs)]
    inputs: list[onnx.ValueInfoProto] = []
    initializers: list[onnx.TensorProto] = []
    for n, array in enumerate(arrays):
        tensor = tensor_of(node.inputs[n])
        if array is None or tensor is None:
            continue
        if array.size > SMALL:
            inputs.append(onnx.helper.make_tensor_value_info(f"i{n}", tensor.dtype.value, array.shape))
        else:
            initializer = ir.to_proto(tensor if tensor.dtype == ir.DataType.STRING else ir.tensor(array))
            assert isinstance(initializer, onnx.TensorProto)
            initializer.name = f"i{n}"
            initializers.append(initializer)
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "constant", inputs, outputs, initializers)
    return onnx.helper.make_model(graph, opset_imports=[onnx.OperatorSetIdProto(version=opset)], ir_version=IR_VERSION)


def _inferred_bytes(proto: onnx.ModelProto) -> int:
    """Bytes of the outputs where shape inference knows them, so that a huge one is not computed at all."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception:  # inference errors have no common base; the evaluation will say what is wrong
        return 0
    total = 0
    for output in inferred.graph.output:
        tensor = output.type.tensor_type
        if tensor.elem_type and tensor.HasField("shape"):
            sizes = [dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value")]
            if len(sizes) == len(tensor.shape.dim):
                dtype = ir.DataType(tensor.elem_type)
                bits = POINTER_BITS if dtype == ir.DataType.STRING else dtype.bitwidth
                total += int(np.prod(sizes, dtype=np.float64)) * bits // 8
    return total


def _run(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array] | str:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        outputs = session.run(None, feeds)
    except Exception as error:  # the runtime's exceptions share no base class
        return f"ONNX Runtime cannot compute it: {(str(error).splitlines() or ['?'])[0][:200]}"
    if any(not output.type.startswith("tensor(") for output in session.get_outputs()):
        return "makes a sequence, map or optional, which cannot be a constant"
    return outputs


def _replace(editor: Editor, node: ir.Node, arrays: list[Array]) -> None:
    named = [output for output in node.outputs if output.name]
    for output, array in zip(named, arrays, strict=True):
        value = editor.add_constant(output.name or "", array, before=node, as_node=output.is_graph_output())
        editor.replace_value(output, value)
    remove_node(node)
