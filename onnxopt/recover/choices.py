"""The choices of a training run: which outputs are taught what, which weights stay, which rate, which labels fit."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np

from onnxopt.core.query import Model, nodes
from onnxopt.core.report import Note
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.errors import DataError, ModelError, UsageError, nearest
from onnxopt.recover.bridge.module import Bridge
from onnxopt.recover.heads import Head, choose_head
from onnxopt.recover.options import Training
from onnxopt.recover.samples import Split

__all__ = ["check_labels", "choose_heads", "freeze", "labelled_head", "usual_rate"]

CAREFUL = frozenset({"LayerNormalization", "RMSNormalization", "SkipLayerNormalization", "Attention"})
"""Operators of networks that take smaller steps."""


def choose_heads(
    names: Sequence[str], said: Sequence[Mapping[str, Array]], recipe: Training
) -> tuple[tuple[Head, ...], list[Note]]:
    """What each output is taught, and why some are not.

    Raises:
        ModelError: None can be.
    """
    heads: list[Head] = []
    notes: list[Note] = []
    for name in names:
        head = choose_head(name, [a[name] for a in said], recipe.loss)
        if head is None:
            notes.append(Note(name, "skipped", "an output that holds no floats is not trained"))
        else:
            heads.append(head)
    if not heads:
        raise ModelError(
            "no output can be trained: none holds floats",
            where=", ".join(names),
            fix="give a model whose outputs are scores (before ArgMax or TopK)",
        )
    return tuple(heads), notes


def labelled_head(
    primary: str, heads: Sequence[Head], split: Split, has_teacher: bool, recipe: Training
) -> Head | None:
    """The output that labels belong to; ``None``: labels do not count.

    Raises:
        UsageError: There is no such output among those that are trained.
    """
    if not split.train.has_labels or (has_teacher and recipe.teacher_weight == 1):
        return None
    found = next((h for h in heads if h.name == primary), None)
    if found is None and not has_teacher:
        known = [h.name for h in heads]
        raise UsageError(
            f"labels cannot teach the output {primary!r}", where="--output-name", fix=nearest(primary, known)
        )
    return found


def freeze(bridge: Bridge, patterns: Sequence[str]) -> list[Note]:
    """Freezes the weights that the patterns name: by their own name, or by the name or type of a node that reads them.

    Raises:
        UsageError: A pattern matches nothing.
    """
    notes: list[Note] = []
    for pattern in patterns:
        found = [
            w
            for w in bridge.weights
            if fnmatch.fnmatchcase(w.name, pattern)
            or any(fnmatch.fnmatchcase(label, pattern) or op == pattern for label, op in w.readers)
        ]
        if not found:
            known = [w.name for w in bridge.weights] + [n for w in bridge.weights for r in w.readers for n in r]
            raise UsageError(
                f"the pattern {pattern!r} matches no weight", where="--freeze", fix=nearest(pattern, known)
            )
        for weight in found:
            weight.parameter.requires_grad_(False)
        notes.append(Note(pattern, "frozen", f"{len(found)} weights stay as they are"))
    return notes


def usual_rate(model: Model, bridge: Bridge, recipe: Training) -> float:
    """The learning rate where the user gives none: a tenth for transformers, half for weights on a grid of codes.

    4 bits, 100 steps: an orientation network .820 -> .985 at half, .943 at a tenth; a ResNet .712 -> .720 and .714.
    """
    base = 1e-2 if recipe.optimizer in ("sgd", "momentum") else 1e-3
    if any(node.op_type in CAREFUL for node in nodes(model)):
        return base / 10
    return base / 2 if any(w.grid is not None for w in bridge.weights) else base


def check_labels(head: Head, output: Array, *parts: Dataset) -> None:
    """Raises when a label is no class of the output.

    Raises:
        DataError: It is not.
    """
    for data in parts:
        for index in range(len(data)):
            labels = data[index].labels
            if labels is None:
                raise DataError(
                    "a sample has no labels", where=f"{data.source}, sample {index}", fix="label all samples"
                )
            array = np.atleast_1d(labels)
            if array.dtype.kind not in "iub":
                if array.dtype.kind != "f":
                    raise DataError(
                        f"labels of type {array.dtype.name} cannot teach",
                        where=data.source,
                        fix="give class numbers, or numbers in the shape of the output",
                    )
                return
            many = head.kind in ("bce", "mse") and array.size == output.size
            by_last = array.shape == output.shape[:-1] or output.ndim == 2
            classes = 2 if many else output.shape[-1] if by_last else output.shape[1]
            padding = array < 0 if array.ndim > 1 else np.zeros(array.shape, bool)
            bad = array[~padding & ((array < 0) | (array >= classes))]
            if bad.size:
                raise DataError(
                    f"label {int(bad.flat[0])} with {classes} classes",
                    where=f"{data.source}, output {head.name!r}",
                    fix=f"give class numbers from 0 to {classes - 1}",
                )
