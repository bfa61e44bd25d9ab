"""Keras models as functions of flat tensors, on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxopt.core.plugins import optional

__all__ = ["flat_call", "packed"]


def flat_call(model: Any, tensors: Sequence[Any]) -> list[Any]:
    """The flat outputs for flat inputs, which the model may take as a list or a dictionary, in inference mode."""
    return optional("keras", "keras").tree.flatten(model(packed(model, tensors), training=False))


def packed(model: Any, items: Sequence[Any]) -> Any:
    """One item an input, in the structure that the model takes: a list, a dictionary, or the only one itself."""
    structure = getattr(model, "_inputs_struct", None)
    structure = model.inputs if structure is None else structure
    return items[0] if len(items) == 1 else optional("keras", "keras").tree.pack_sequence_as(structure, list(items))
