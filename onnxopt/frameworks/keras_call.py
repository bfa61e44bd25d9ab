"""Keras models as functions of flat tensors, on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxopt.core.plugins import optional

__all__ = ["flat_call"]


def flat_call(model: Any, tensors: Sequence[Any]) -> list[Any]:
    """The flat outputs for flat inputs, which the model may take as a list or a dictionary, in inference mode."""
    tree: Any = optional("keras", "keras").tree
    structure = getattr(model, "_inputs_struct", None)
    structure = model.inputs if structure is None else structure
    packed = tensors[0] if len(tensors) == 1 else tree.pack_sequence_as(structure, list(tensors))
    return tree.flatten(model(packed, training=False))
