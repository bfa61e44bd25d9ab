"""A fitted scikit-learn estimator as ONNX: skl2onnx converts, the outputs get the names and shapes of the estimator.

skl2onnx answers in forms that differ between estimators: scores of a binary classifier are one column, or two of which
the first or the second is the decision function; labels are ``(n,)`` or ``(n, 1)``. Of each output the form is taken
that equals the estimator's own answer on a few rows.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.edit import Editor
from onnxopt.core.plugins import optional
from onnxopt.core.proto import from_proto
from onnxopt.core.query import Model, TensorSpec
from onnxopt.core.tensors import Array
from onnxopt.errors import ModelError
from onnxopt.frameworks.scikit_parts import class_name, convertible, parts
from onnxopt.frameworks.scikit_trees import exact_trees

__all__ = ["convert"]

ML_OPSET = 3
"""Of ``ai.onnx.ml``: the newest with the tree operators that every ONNX Runtime has."""
Feeds = Mapping[str, Array]


def convert(
    estimator: Any, inputs: Sequence[TensorSpec], probe: Feeds, answers: Mapping[str, Array], opset: int, where: str
) -> Model:
    """The estimator as a model.

    Args:
        estimator: Fitted.
        inputs: ``(batch, n) float32`` for all columns, or ``(batch, 1)`` for each.
        probe: A few rows, by input.
        answers: Output name -> the estimator's answer to them.
        opset: The newest opset it may use.
        where: Names the estimator in messages.

    Raises:
        ModelError: skl2onnx does not know the estimator or a part of it, or answers in another shape.
        MissingExtraError: skl2onnx is not installed.
    """
    proto = _converted(estimator, inputs, opset, where)
    model = from_proto(proto)
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        value.shape = ir.Shape(spec.shape or ())
    found = _run(proto, dict(zip((v.name or "" for v in model.graph.inputs), probe.values(), strict=True)), where)
    raw = list(model.graph.outputs)
    if len(raw) < len(answers):
        raise _refused(f"it gives {len(raw)} of the outputs {', '.join(answers)}", estimator, where)
    editor = Editor(model)
    drawing = Drawing(editor, model.graph, "output")
    given = list(zip(raw, found, strict=True))
    outputs = [
        _formed(drawing, value, array, name, answer, estimator, where)
        for (value, array), (name, answer) in zip(given, answers.items(), strict=False)
    ]
    model.graph.outputs[:] = outputs
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        _rename(editor, value, spec.name)
    for value, name in zip(outputs, answers, strict=True):
        _rename(editor, value, name)
    return model


def _converted(estimator: Any, inputs: Sequence[TensorSpec], opset: int, where: str) -> onnx.ModelProto:
    skl2onnx = optional("skl2onnx", "sklearn")
    types = optional("skl2onnx.common.data_types", "sklearn")
    exact_trees()
    _know_plain_tensors()
    copy = convertible(estimator)
    kinds = {"f": types.FloatTensorType, "U": types.StringTensorType}
    initial = [
        (s.name, kinds[s.dtype.kind if s.dtype is not None else "f"]([None, *(s.shape or ())[1:]])) for s in inputs
    ]
    target = {"": min(opset, skl2onnx.__max_supported_opset__), "ai.onnx.ml": ML_OPSET}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options in _options(copy):
            try:
                proto = skl2onnx.convert_sklearn(
                    copy, name="scikit-learn", initial_types=initial, options=options, target_opset=target
                )
            except NameError as error:  # the estimator does not know the option
                if options and "zipmap" in str(error):
                    continue
                raise _refused(str(error), estimator, where) from error
            except Exception as error:  # converters raise whatever they met
                raise _refused(_reason(error), estimator, where) from error
            return cast(onnx.ModelProto, proto)
    raise _refused("it has an output that is no tensor", estimator, where)


@cache
def _know_plain_tensors() -> None:
    """Lets linear support vector machines in pipelines know the option that skl2onnx itself sets for pipelines."""
    registry = optional("skl2onnx.common._registration", "sklearn")
    known = registry.get_converter("SklearnLinearSVC")
    allowed = known.get_allowed_options()
    if isinstance(allowed, dict) and "zipmap" not in allowed:
        allowed = {**cast(dict[str, object], allowed), "zipmap": [True, False, "columns"]}

        def plain(scope: Any, operator: Any, container: Any) -> None:
            known(scope, operator, container)

        registry.register_converter("SklearnLinearSVC", plain, overwrite=True, options=allowed)


def _options(estimator: Any) -> Iterator[dict[int, dict[str, bool]]]:
    """Probabilities as a tensor instead of a list of maps; estimators without them do not know the option."""
    if hasattr(estimator, "classes_"):
        yield {id(estimator): {"zipmap": False}}
    yield {}


def _run(proto: onnx.ModelProto, feeds: Feeds, where: str) -> list[Array]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(y) for y in session.run(None, dict(feeds))]
    except Exception as error:  # ONNX Runtime has no common base class
        raise ModelError(
            f"ONNX Runtime does not run what skl2onnx made: {' '.join(str(error).split())[:300]}",
            where=where,
            fix="try another --opset, or another estimator",
        ) from error


def _formed(
    drawing: Drawing, value: ir.Value, found: Array, name: str, answer: Array, estimator: Any, where: str
) -> ir.Value:
    """``value`` in the shape of the estimator's answer."""
    forms: list[tuple[str, Array]] = []
    if found.shape == answer.shape:
        forms.append(("same", found))
    elif found.size == answer.size:
        forms.append(("reshape", found.reshape(answer.shape)))
    elif answer.ndim == 1 and found.ndim == 2 and len(found) == len(answer):
        forms += [("last", found[:, -1]), ("first", found[:, 0])]
    if not forms:
        raise _refused(f"its output {name!r} has shape {found.shape} where {answer.shape} is right", estimator, where)
    form = min(forms, key=lambda f: _distance(f[1], answer))[0]
    if form == "reshape":
        value = drawing.op("Reshape", value, drawing.constant([-1, *answer.shape[1:]]))
    elif form != "same":
        value = drawing.op("Gather", value, drawing.constant(np.asarray(-1 if form == "last" else 0, np.int64)), axis=1)
    elif value.is_graph_input() or value.is_initializer():
        value = drawing.op("Identity", value)
    value.dtype = ir.DataType.STRING if found.dtype.kind in "OSU" else ir.DataType.from_numpy(found.dtype)
    value.shape = ir.Shape(["batch", *answer.shape[1:]])
    return value


def _distance(found: Array, answer: Array) -> float:
    if found.dtype.kind in "OSU" or answer.dtype.kind in "OSU":
        return float((found.astype(str) != answer.astype(str)).mean())
    return float(np.abs(found.astype(np.float64) - answer).mean())


def _rename(editor: Editor, value: ir.Value, name: str) -> None:
    if value.name == name:
        return
    for graph in (editor.model.graph, *editor.model.graph.subgraphs()):
        for other in [*graph.inputs, *graph.initializers.values(), *(y for node in graph for y in node.outputs)]:
            if other.name == name:
                other.name = editor.fresh_name(f"{name}_inner")
    value.name = name


def _reason(error: Exception) -> str:
    """The first sentence of what skl2onnx says, which goes on with advice for its own users."""
    text = " ".join(str(error).split())
    unknown = re.search(r"for type '<class '([\w.]+)'>'", text)
    if unknown:
        return f"it has no converter for {unknown[1]}"
    return re.split(r" You may raise| It usually means| Maybe ", text)[0][:300]


def _refused(reason: str, estimator: Any, where: str) -> ModelError:
    made_of = ", ".join(dict.fromkeys(type(part).__name__ for part in parts(estimator)))
    return ModelError(
        f"skl2onnx cannot convert this estimator: {reason}",
        where=f"{where}: {class_name(estimator)} (made of {made_of[:200]})",
        fix="use another estimator or step in its place; `onnxopt export` takes what skl2onnx has a converter for",
    )
