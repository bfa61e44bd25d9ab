"""Operators on values with the channels of all members side by side, ``(n, K * c, ...)``: grouped convolutions.

Source of the idea: Jeong et al., "Accelerating Multi-Model Inference by Merging DNNs of Different Weights" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxopt.core.operators import BROADCAST, POOLS, REDUCTIONS, UNARY
from onnxopt.core.tensors import Array
from onnxopt.merging.horizontal.stacks import Channels, Leading, Refusal, Same, Stacker, State
from onnxopt.merging.horizontal.step import Rule, Step, with_limits

__all__ = ["CHANNELS", "ONLY_CHANNELS"]

UNKNOWN = Refusal("the number of channels is not known")
Result = Sequence[State] | Refusal


def _conv(step: Step, stacker: Stacker) -> Result:
    """A grouped convolution; a plain one with more outputs where all members read the same."""
    state, second = step.inputs[0], step.inputs[1]
    weights = None if second is None else stacker.arrays(second)
    third = step.state(2)
    biases = None if third is None else stacker.arrays(third)
    if weights is None or state is None or (third is not None and biases is None):
        return Refusal("its weights are no constants")
    groups, is_turned = step.int("group", 1), step.node.op_type == "ConvTranspose"
    if isinstance(state, Same) and groups == 1 and not is_turned:
        value, all_groups = state.value, 1
    else:
        beside = stacker.channels(state, step.source(0))
        if beside is None:
            return UNKNOWN
        value, all_groups = beside.value, groups * stacker.count
    inputs = [value, stacker.side_by_side(weights)]
    if biases is not None:
        inputs.append(stacker.side_by_side(biases))
    found = stacker.like(step.node, inputs, {"group": all_groups})[0]
    return [Channels(found, weights[0].shape[1] * groups if is_turned else weights[0].shape[0])]


def _normalization(step: Step, stacker: Stacker) -> Result:
    """BatchNormalization and InstanceNormalization: their numbers a channel stand side by side."""
    if step.int("training_mode", 0) or any(o.uses() for o in step.node.outputs[1:]):
        return Refusal("it is in training mode")
    state = step.inputs[0]
    beside = None if state is None else stacker.channels(state, step.source(0))
    found = [stacker.arrays(other) if other is not None else None for other in step.inputs[1:]]
    numbers = [arrays for arrays in found if arrays is not None]
    if beside is None or len(numbers) < len(found):
        return UNKNOWN if beside is None else Refusal("its numbers are no constants")
    inputs = [beside.value, *(stacker.side_by_side(arrays) for arrays in numbers)]
    return [Channels(stacker.like(step.node, inputs)[0], beside.channels)]


def _pool(step: Step, stacker: Stacker) -> Result:
    state = step.inputs[0]
    beside = None if state is None else stacker.channels(state, step.source(0))
    if beside is None or any(o.uses() for o in step.node.outputs[1:]):
        return UNKNOWN if beside is None else Refusal("its indices are read")
    return [Channels(stacker.like(step.node, [beside.value])[0], beside.channels)]


def _elementwise(step: Step, stacker: Stacker) -> Result:
    """Each operand with the channels side by side, or with one channel that serves all members."""
    beside = [state for state in step.inputs if isinstance(state, Channels)]
    counts = {state.channels for state in beside}
    ranks = step.ranks()
    if len(counts) != 1 or ranks is None or (step.node.op_type == "Dropout" and step.has(2)):
        return UNKNOWN
    channels, values = counts.pop(), list[ir.Value | None]()
    for i, state in enumerate(step.inputs):
        if state is None:
            values.append(None)
            continue
        value = state.value if isinstance(state, Channels) else None
        if isinstance(state, Channels) and step.rank(i) != max(ranks):
            return Refusal("an operand has fewer axes")
        if value is None:
            value = _operand(step, i, max(ranks), channels, stacker)
        if value is None:
            return Refusal("an operand does not fit the channels")
        values.append(value)
    return [Channels(out, channels) for out in stacker.like(step.node, values)]


def _pad(step: Step, stacker: Stacker) -> Result:
    """Behind the channels only."""
    state, pads, rank = step.inputs[0], step.ints(1), step.rank(0)
    if not isinstance(state, Channels) or pads is None or rank is None or len(pads) != 2 * rank:
        return Refusal("its widths are not known")
    if any(pads[i] for i in (0, 1, rank, rank + 1)) or not isinstance(step.state(2), Same | None):
        return Refusal("it widens batch or channels, or its filling differs")
    return [Channels(stacker.like(step.node, [state.value, *step.rest()])[0], state.channels)]


def _operand(step: Step, index: int, rank: int, channels: int, stacker: Stacker) -> ir.Value | None:
    """A constant or shared operand of an elementwise operator, as wide as the channels of all members."""
    state, source = step.inputs[index], step.source(index)
    own = step.rank(index)
    if state is None or own is None:
        return None
    place = 1 - (rank - own)
    if isinstance(state, Same):
        size = 1 if place < 0 else (source.shape[place] if source.shape is not None else None)
        if size == 1:
            return state.value
        if size == channels:
            return stacker.drawing.op("Concat", *[state.value] * stacker.count, axis=place)
        return None
    arrays = stacker.arrays(state)
    if arrays is None:
        return None
    whole = [array.reshape((1,) * (rank - own) + array.shape) for array in arrays]
    if whole[0].shape[0] != 1 or whole[0].shape[1] not in (1, channels):
        return None
    wide: list[Array] = [np.broadcast_to(a, (1, channels, *a.shape[2:])) for a in whole]
    return stacker.side_by_side(wide, axis=1)


def _reduction(step: Step, stacker: Stacker) -> Result:
    """Over axes behind the channels."""
    state, rank = step.inputs[0], step.rank(0)
    attribute = step.node.attributes.get("axes")
    axes = step.ints(1) if step.has(1) else None if attribute is None else list(attribute.as_ints())
    if not isinstance(state, Channels) or rank is None or not axes or min(a % rank for a in axes) < 2:
        return Refusal("it joins channels")
    return [Channels(stacker.like(step.node, [state.value, *step.rest()])[0], state.channels)]


def _flatten(step: Step, stacker: Stacker) -> Result:
    """From channels side by side to members in front."""
    state, rank = step.inputs[0], step.rank(0)
    if not isinstance(state, Channels) or rank is None or step.int("axis", 1) not in (1, 1 - rank):
        return Refusal("it joins the batch with other axes")
    drawing = stacker.drawing
    sizes = list(step.source(0).shape or ())[2:]
    known = [size for size in sizes if isinstance(size, int)]
    length = state.channels * int(np.prod(known)) if len(known) == len(sizes) else -1
    apart = drawing.op("Reshape", state.value, drawing.constant([0, stacker.count, length]))
    found = drawing.op("Transpose", apart, perm=[1, 0, 2])
    found.type = step.node.outputs[0].type
    return [Leading(found)]


def _resize(step: Step, stacker: Stacker) -> Result:
    """By constant factors that leave batch and channels as they are."""
    state, factors = step.inputs[0], step.state(2)
    numbers = stacker.arrays(factors) if isinstance(factors, Same) else None
    if not isinstance(state, Channels) or numbers is None or not numbers[0].size or step.has(3):
        return Refusal("its factors are not known")
    if "axes" in step.node.attributes or (numbers[0][:2] != 1).any():
        return Refusal("it changes batch or channels")
    return [Channels(stacker.like(step.node, [state.value, *step.rest()])[0], state.channels)]


ONLY_CHANNELS: dict[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _normalization),
    **dict.fromkeys(POOLS, _pool),
}
"""Operators whose channels are on axis 1, whatever their input is."""
CHANNELS: dict[str, Rule] = {
    **dict.fromkeys((*UNARY, *BROADCAST, "PRelu"), _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    "Clip": with_limits(_elementwise),
    "Flatten": _flatten,
    "Pad": _pad,
    "Resize": _resize,
}
"""Operators that leave channels where they are, when their input has them side by side."""
