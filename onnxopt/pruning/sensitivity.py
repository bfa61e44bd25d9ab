"""How much of a group's error reaches the output of the model: what makes the errors of different groups comparable.

Each group is cut to half by itself (each Conv that may become two to half of its rank), its readers are repaired, and
the model runs on some samples. The error curve of the group is scaled so that it agrees with what came out.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from onnxopt.core.io import save_scratch
from onnxopt.core.tensors import Array
from onnxopt.data.dataset import Dataset
from onnxopt.pruning.factors import split
from onnxopt.pruning.plan import Menu
from onnxopt.pruning.pruner import Pruner
from onnxopt.pruning.repair import repair
from onnxopt.pruning.surgery import cut, with_values
from onnxopt.run.session import Feeds, Session, open_session

__all__ = ["scaled"]

SAMPLES = 64
"""That judge: others than those that are fitted to, at most a quarter."""
LEAST_SAMPLES = 16
SHARE = 0.5
"""Of its units that each group keeps."""


def scaled(pruner: Pruner, output: str, limit_s: float) -> Pruner:
    """The pruner with error curves in terms of the output; unchanged where that would take too long.

    Args:
        pruner: The model.
        output: Name of the output that counts.
        limit_s: Seconds that it may take.
    """
    data = pruner.ctx.data
    if data is None or len(data) < LEAST_SAMPLES:
        return pruner
    count = len(data)
    few = data.take(range(count - min(SAMPLES, count // 4), count))
    tried = replace(pruner, ctx=replace(pruner.ctx, data=data.take(range(count - len(few)))))
    session = open_session(pruner.reference, pruner.ctx.target)
    wanted = [_answer(session, sample.feeds, output) for sample in few]
    start = time.monotonic()
    errors: list[Array] = []
    choices = pruner.choices
    with pruner.ctx.progress.task("weighing groups", len(choices.choices)) as advance:
        for index, widths in enumerate(choices.choices):
            spent = time.monotonic() - start
            if index and spent / index * len(choices.choices) > limit_s:
                return pruner
            errors.append(_scaled(tried, index, output, few, wanted) if len(widths) > 1 else choices.errors[index])
            advance(1)
    return replace(pruner, choices=Menu(choices.choices, tuple(errors)))


def _scaled(pruner: Pruner, index: int, output: str, few: Dataset, wanted: list[Array]) -> Array:
    """The error curve of one group or factor."""
    choices = pruner.choices
    kept, widths = choices.full, choices.choices[index]
    place = int(np.abs(widths - widths[-1] * SHARE).argmin())
    local = float(choices.errors[index][place])
    if place == len(widths) - 1 or local <= 0:
        return choices.errors[index]
    kept[index] = widths[place]
    dead = pruner.dead(kept)
    groups, ranks = pruner.structure.groups, pruner.ranks(kept)
    if index < len(groups):
        found = tuple(layer for layer in pruner.layers if layer.linear in groups[index].readers)
    else:
        found = (pruner.factors[index - len(groups)].layer,)
    repaired = repair(pruner.model, pruner.structure, found, dead, pruner.shapes, pruner.ctx, ranks=ranks)
    path = pruner.ctx.workdir / "weighed.onnx"
    save_scratch(split(cut(with_values(pruner.model, repaired.weights), pruner.shapes, dead), ranks), path)
    session = open_session(path, pruner.ctx.target)
    error, size = 0.0, 0.0
    for sample, expected in zip(few, wanted, strict=True):
        given = _answer(session, sample.feeds, output)
        error += float(((given - expected) ** 2).sum())
        size += float((expected**2).sum())
    return choices.errors[index] * (error / max(size, 1e-30) / local)


def _answer(session: Session, feeds: Feeds, output: str) -> Array:
    return np.nan_to_num(np.asarray(session.run(feeds, [output])[output], np.float64))
