"""Meta-models that the user brings: an ONNX file, or a scikit-learn estimator that is fitted here and converted.

A meta-model takes the outputs of all members side by side, ``(n, members * classes) float32`` with those of one member
together (probabilities where the task is one of classes), and gives ``(n, classes)``.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt.core.draw import Drawing
from onnxopt.core.io import load
from onnxopt.core.plugins import load_function, optional
from onnxopt.core.query import Model, opset
from onnxopt.core.tensors import Array
from onnxopt.errors import DataError, ModelError, UsageError
from onnxopt.frameworks.scikit import OPSET, PROBE, Estimator
from onnxopt.frameworks.scikit_convert import convert
from onnxopt.merging.calls import Calls
from onnxopt.merging.combine import graft
from onnxopt.merging.forms import Form, Task
from onnxopt.merging.member import Member, prepare
from onnxopt.merging.opsets import same_opsets
from onnxopt.merging.points import Points, points_of

__all__ = ["Meta", "meta_rule"]


@dataclass(frozen=True)
class Meta:
    """A model on the outputs of all members.

    Attributes:
        title: What reports call it.
        member: The meta-model, its one input named ``features``.
        flat: Shape of one output of a member, without the batch.
        column: The only column that counts, of a classifier that gives yes and no.
    """

    title: str
    member: Member
    flat: tuple[int, ...]
    column: int | None = None

    def compute(self, outputs: Sequence[Array]) -> Array:
        """The meta-model's answer, from a session of its own."""
        import onnxruntime as ort

        features = np.concatenate([y.reshape(len(y), -1) for y in outputs], axis=1).astype(np.float32)
        payload = ir.to_proto(self.member.model).SerializeToString()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
        found: Array = session.run([self.member.output], {self.member.inputs[0].name: features})[0]
        if self.column is not None:
            found = found[:, self.column]
        return found.astype(np.float64).reshape(-1, *self.flat)

    def draw(self, drawing: Drawing, values: Sequence[ir.Value]) -> ir.Value:
        """Concat and the graph of the meta-model."""
        flat = [drawing.op("Flatten", y, axis=1) if len(self.flat) != 1 else y for y in values]
        features = drawing.op("Concat", *flat, axis=1)
        if values[0].dtype != ir.DataType.FLOAT:
            features = drawing.op("Cast", features, to=int(ir.DataType.FLOAT))
        output = graft(drawing.editor.model, drawing.editor, self.member, {"features": features})
        if self.column is not None:
            output = drawing.op("Gather", output, drawing.constant([self.column]), axis=1)
        shape = drawing.constant([-1, *self.flat])
        found = drawing.op("Reshape", output, shape)
        return found if values[0].dtype == ir.DataType.FLOAT else drawing.op("Cast", found, to=int(ir.DataType.DOUBLE))


def meta_rule(meta: object, task: Task, forms: Sequence[Form], calls: Calls, version: int) -> Meta:
    """The rule of a meta-model.

    Args:
        meta: A path, ``module:function``, or an estimator.
        task: What the members answer.
        forms: How their outputs are brought to one kind.
        calls: Labelled calls that an estimator is fitted to.
        version: The opset of the members.

    Raises:
        UsageError: It is none of these.
        ModelError: Its input or output has another width.
        DataError: An estimator needs labels and there are none.
        MissingExtraError: An estimator needs skl2onnx.
    """
    flat = tuple(forms[0].compute(calls.outputs[0][0]).shape[1:])
    classes, width = int(np.prod(flat)), int(np.prod(flat)) * len(forms)
    title, model = _opened(meta, task, forms, calls, width, version)
    member = prepare(title, Path(title), model, None if not _is_classifier(model) else _scores(model))
    if opset(member.model) > version:
        raise ModelError(
            f"the meta-model has opset {opset(member.model)}, newer than that of the members ({version})",
            where=title,
            fix=f"export it with opset {version}",
        )
    (member, _), _ = same_opsets((member, _dummy(member, version)))
    inputs = member.inputs
    shape = inputs[0].shape if inputs else None
    if len(inputs) != 1 or (
        shape is not None and (len(shape) != 2 or (shape[1] not in (width, None) and isinstance(shape[1], int)))
    ):
        raise ModelError(
            f"the meta-model does not take (n, {width}), the {len(forms)} outputs side by side",
            where=f"{title}, inputs {', '.join(map(str, inputs))}",
            fix=f"give a model with one input (n, {width}) float32",
        )
    rule = Meta(title, Member(title, member.path, member.model, member.output, {inputs[0].name: "features"}), flat)
    if task.kind == "sides" and member.spec.shape is not None and member.spec.shape[-1:] == (2,):
        rule = replace(rule, column=1)
    try:
        given = rule.compute([form.compute(y) for form, y in zip(forms, calls.outputs[0], strict=True)])
    except Exception as error:
        raise ModelError(
            f"the meta-model does not run on (n, {width}) or does not give (n, {classes}): {error}",
            where=title,
            fix=f"give a model from (n, {width}) to (n, {classes}) float32",
        ) from error
    if len(given) != len(calls.outputs[0][0]):
        raise ModelError(
            f"the meta-model gives {given.size} numbers for {len(calls.outputs[0][0])} items of {classes}",
            where=title,
            fix=f"give a model from (n, {width}) to (n, {classes}) float32",
        )
    return rule


def _opened(
    meta: object, task: Task, forms: Sequence[Form], calls: Calls, width: int, version: int
) -> tuple[str, Model]:
    if isinstance(meta, Path) or (isinstance(meta, str) and meta.endswith(".onnx")):
        return Path(meta).name, load(Path(meta))
    if isinstance(meta, str) and Path(meta).suffix.lower() in (".joblib", ".pkl", ".pickle", ".skops"):
        raise UsageError(
            "a fitted meta-model is given as ONNX", where=f"--meta {meta}", fix=_how_to_export(meta, version)
        )
    if isinstance(meta, str) and ":" not in meta:
        raise UsageError(
            f"{meta!r} is no meta-model", where="--meta", fix="give logistic, a .onnx file, or module:function"
        )
    estimator: Any = _made(meta) if isinstance(meta, str) else meta
    if not hasattr(estimator, "fit") or not hasattr(estimator, "predict"):
        raise UsageError(
            f"{meta!r} makes no scikit-learn estimator but {type(estimator).__name__}",
            where="--meta",
            fix="for instance --meta sklearn.linear_model:LogisticRegression",
        )
    optional("skl2onnx", "sklearn")
    points = points_of(calls, forms, task)
    return type(estimator).__name__, _converted(estimator, points, task, width, version)


def _how_to_export(meta: str, version: int) -> str:
    """The command that makes a meta-model of opset ``version`` at most of an estimator in a file, ready to be run."""
    is_pickle = Path(meta).suffix.lower() != ".skops"
    options = (" --trust" if is_pickle else "") + (f" --opset {version}" if version < OPSET else "")
    warning = " (a pickle can run any code: only where you know who made it)" if is_pickle else ""
    command = f"onnxopt export {shlex.quote(meta)}{options} -o meta.onnx"
    return f"`{command}`{warning}, then --meta meta.onnx; module:function is fitted here"


def _made(name: str) -> object:
    """What ``module:function`` gives.

    Raises:
        UsageError: It fails.
    """
    function = load_function(name, "--meta", UsageError)
    try:
        return function()
    except Exception as error:  # whatever the user's function raises
        raise UsageError(
            f"{name} failed: {error}", where="--meta", fix="give a function without arguments that makes an estimator"
        ) from error


def _converted(estimator: Any, points: Points, task: Task, width: int, version: int) -> Model:
    """A copy of the estimator fitted on the points, as ONNX."""
    from copy import deepcopy

    fitted = deepcopy(estimator)
    table = points.outputs.reshape(len(points.outputs), -1).astype(np.float32)
    if table.shape[1] != width:
        raise UsageError(
            "a scikit-learn meta-model takes one item a row, and the outputs are dense",
            where="--meta",
            fix="use logistic",
        )
    classes = points.truth.shape[1]
    truth = points.truth.argmax(axis=1) if task.kind == "classes" else points.truth[:, 0]
    truth = truth if task.kind == "values" else truth.astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(table, truth)
    seen = getattr(fitted, "classes_", None)
    if task.kind == "classes" and (seen is None or len(seen) != classes):
        raise DataError(
            f"the labels have {0 if seen is None else len(seen)} of {classes} classes, which is all it would know",
            where="labels of the data",
            fix="give labels of all classes, or use --meta logistic",
        )
    original = Estimator(fitted, type(estimator).__name__)
    feeds = {original.inputs[0].name: table[:PROBE]}
    answers = dict(zip(original.outputs, original.run(feeds), strict=True))
    return convert(fitted, original.inputs, feeds, answers, min(version, OPSET), type(estimator).__name__)


def _is_classifier(model: Model) -> bool:
    return len(model.graph.outputs) == 2


def _scores(model: Model) -> str:
    return model.graph.outputs[1].name or ""


def _dummy(member: Member, version: int) -> Member:
    """A member that uses opset ``version`` and nothing of it."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": version})
    return Member("members", member.path, ir.Model(graph, ir_version=8), "")
