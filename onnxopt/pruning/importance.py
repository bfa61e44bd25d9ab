"""In which order the units of a group should go, and what each step costs: structured optimal brain surgery.

Source: ZipLM, Kurtic et al. 2023, https://arxiv.org/abs/2302.04089 (Algorithm 1). For each node that reads the units,
with ``H = E[x x^T]`` of its rows: removing the rows ``c`` of a unit raises the squared error of its output, after the
best change of all other rows, by ``tr(W_c^T ((H^-1)_cc)^-1 W_c)``; then ``W -= (H^-1)_:c ((H^-1)_cc)^-1 W_c`` and
``H^-1 -= (H^-1)_:c ((H^-1)_cc)^-1 (H^-1)_c:``. The errors of several readers are added, each over the variance of its
output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from scipy import linalg

from onnxopt.core.query import Model
from onnxopt.core.tensors import Array
from onnxopt.passes.base import Context
from onnxopt.passes.gram import Reads, observe
from onnxopt.pruning.channels import Ids
from onnxopt.pruning.layers import Layer
from onnxopt.pruning.stages import VECTORS_A_ROW
from onnxopt.pruning.structure import Group, Structure
from onnxopt.pruning.surgery import numbers
from onnxopt.run.target import all_cores

__all__ = ["Importance", "Ranking", "moments", "rank", "ranked", "read_by_groups"]

Importance: TypeAlias = Literal["obs", "activation", "fisher", "l2", "l1"]

FROM_DATA = ("obs", "activation")
DAMPING = 1e-2
"""Of the mean of the diagonal, added to it."""
LEAST_DAMPING = 1e-10
STEPS = 32
"""A group is emptied in at most so many steps; units of one step are chosen together."""
COMPACT = 0.8
"""With a smaller share of its rows left, a matrix is copied without the others."""
EXACT = 2048
"""Matrices up to this size are inverted in double precision."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The units of a group in the order in which they should go.

    Attributes:
        group: The group.
        order: All units, the least important first.
        error: Error of the readers' outputs, over their variance, after 0, 1, ... units are gone.
    """

    group: Group
    order: Ids
    error: Array


def rank(
    structure: Structure,
    found: Sequence[Layer],
    files: Mapping[Reads, Sequence[Path]],
    ctx: Context,
    method: Importance = "obs",
) -> tuple[Ranking, ...]:
    """A ranking for each group.

    Args:
        structure: Structure of the model.
        found: Its layers.
        files: ``moments`` of what the readers of the groups read.
        ctx: Told of each step.
        method: ``"obs"``: as above; ``"activation"``: the energy that a unit brings into its readers without repair;
            ``"l2"``, ``"l1"``: norm of the weights that make it. ``"fisher"`` is ``ranked`` by scores from elsewhere.
    """
    readers = _readers(structure, found)
    done: list[Ranking] = []
    with ctx.progress.task("ranking channels", len(structure.groups)) as advance:
        for group in structure.groups:
            known = [layer for layer in readers[group] if method in FROM_DATA and layer.reads in files]
            done.append(_by_output(group, known, files, method) if known else _by_norm(group, structure, method))
            advance(1)
    return tuple(done)


def read_by_groups(structure: Structure, found: Sequence[Layer], method: Importance) -> tuple[Reads, ...]:
    """What ``rank`` needs the moments of."""
    readers = _readers(structure, found) if method in FROM_DATA else {}
    return tuple(dict.fromkeys(layer.reads for some in readers.values() for layer in some))


def _readers(structure: Structure, found: Sequence[Layer]) -> dict[Group, list[Layer]]:
    by_node = {layer.linear: layer for layer in found}
    return {g: [by_node[r] for r in g.readers if r in by_node] for g in structure.groups}


def moments(model: Model, wanted: Sequence[Reads], ctx: Context) -> dict[Reads, list[Path]]:
    """One file a part of the second moments of each kind of rows: together they may be too large for memory."""
    ctx = replace(ctx, target=all_cores(ctx.target))
    files: dict[Reads, list[Path]] = {}
    for index, (reads, gram) in enumerate(observe(model, wanted, ctx, VECTORS_A_ROW)):
        files[reads] = []
        for part, moment in zip(gram.parts, gram.moments(centered=True), strict=True):
            path = ctx.workdir / f"moments-{index}-{part.start}.npy"
            np.save(path, moment)
            files[reads].append(path)
    return files


@dataclass
class _Reader:
    """One group of one part of a reader's rows; mutable because rows are eliminated.

    Attributes:
        weight: (rows, columns).
        inverse: Of the damped moments, (rows, rows).
        rows: Rows of each unit.
        scale: One over the variance of the output.
        alive: Whether each row is not yet eliminated.
    """

    weight: Array
    inverse: Array
    rows: list[Array]
    scale: float
    alive: Array

    def scores(self, units: Array, *, repair: bool) -> Array:
        """What each unit costs to remove now."""
        rows: list[Array] = [self.rows[int(u)] for u in units]
        if len({len(r) for r in rows}) > 1:
            return np.array([float(self._score(r[None], repair)[0]) if len(r) else 0.0 for r in rows])
        return self._score(np.stack(rows), repair) if len(rows[0]) else np.zeros(len(units))

    def _score(self, rows: Array, repair: bool) -> Array:
        own = self.weight[rows]
        blocks = self.inverse[rows[:, :, None], rows[:, None, :]]
        moved = np.linalg.solve(blocks, own) if repair else np.matmul(blocks, own)
        return (own * moved).sum(axis=(1, 2)).clip(0) * self.scale

    def remove(self, units: Array) -> float:
        """Eliminates the rows of some units; what they cost together."""
        gone: Array = np.concatenate([self.rows[int(u)] for u in units])
        if not len(gone):
            return 0.0
        block = self.inverse[np.ix_(gone, gone)]
        change = np.linalg.solve(block, self.weight[gone])
        cost = float((self.weight[gone] * change).sum()) * self.scale
        across = self.inverse[:, gone]
        self.weight -= across @ change
        self.inverse -= across @ np.linalg.solve(block, across.T)
        # What is left of the eliminated rows is rounding.
        self.weight[gone] = 0
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0
        self.alive[gone] = False
        if self.alive.mean() < COMPACT:
            self._compact()
        return max(cost, 0.0)

    def _compact(self) -> None:
        """Takes out the rows that are gone."""
        kept = np.flatnonzero(self.alive)
        place = np.cumsum(self.alive) - 1
        self.weight, self.inverse = self.weight[kept], self.inverse[np.ix_(kept, kept)]
        self.rows = [place[rows[self.alive[rows]]] for rows in self.rows]
        self.alive = self.alive[kept]


def _by_output(
    group: Group, found: Sequence[Layer], files: Mapping[Reads, Sequence[Path]], method: Importance
) -> Ranking:
    repair = method == "obs"
    readers = [part for layer in found for part in _parts(layer, group, files[layer.reads], repair)]
    count = len(group.units)
    left = np.arange(count)
    order: list[int] = []
    error = [0.0]
    step = max(1, count // STEPS)
    while len(left):
        scores = sum((r.scores(left, repair=repair) for r in readers), np.zeros(len(left)))
        chosen = np.sort(np.argsort(scores, kind="stable")[:step]) if len(left) > step else np.arange(len(left))
        chosen = chosen[np.argsort(scores[chosen], kind="stable")]
        cost = sum(r.remove(left[chosen]) for r in readers) if repair else float(scores[chosen].sum())
        share = np.cumsum(scores[chosen]) / (scores[chosen].sum() or 1.0)
        error += (error[-1] + cost * share).tolist()
        order += group.units[left[chosen]].tolist()
        left = np.delete(left, chosen)
    return Ranking(group, np.array(order, np.int64), np.array(error))


def _parts(layer: Layer, group: Group, files: Sequence[Path], repair: bool) -> list[_Reader]:
    """The readers in one layer: each of its groups, each part of its rows."""
    matrix = layer.matrix(numbers(layer.linear.weight))
    ids = layer.rows
    if ids is None:
        return []
    made: list[_Reader] = []
    start = 0
    for path in files:
        moments = np.load(path)
        size = moments.shape[1]
        part = ids[start : start + size]
        rows = [np.flatnonzero(part == unit) for unit in group.units]
        for weight, moment in zip(matrix[:, start : start + size], moments, strict=True):
            wide = np.float64 if size <= EXACT else np.float32
            own, energy = weight.astype(wide), moment.astype(wide)
            variance = float(np.einsum("io,ij,jo->", own, energy, own, optimize=True))
            table = _inverse(energy) if repair else energy
            made.append(_Reader(own, table, rows, 1.0 / max(variance, 1e-30), np.ones(size, bool)))
        start += size
    return made


def _inverse(moment: Array) -> Array:
    size = len(moment)
    one = np.eye(size, dtype=moment.dtype)
    damping = max(DAMPING * float(np.trace(moment)) / size, LEAST_DAMPING)
    if not np.isfinite(moment).all():
        return one
    while True:
        try:
            factor = linalg.cholesky(moment + one * damping, lower=True, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError:  # rounding outweighs it where what is read hardly varies
            damping *= 100
        else:
            return linalg.cho_solve((factor, True), one, check_finite=False)


def _by_norm(group: Group, structure: Structure, method: Importance) -> Ranking:
    """By the norm of the weights that make each unit."""
    total = np.zeros(len(group.units))
    for maker in group.makers:
        slot = next(s for s in group.slots if s.value is maker.weight and s.axis == maker.out_axis)
        weight = np.moveaxis(numbers(maker.weight).astype(np.float64), maker.out_axis, 0)
        flat = weight.reshape(len(weight), -1)
        norms = np.abs(flat).sum(axis=1) if method == "l1" else (flat**2).sum(axis=1)
        ids = structure.positions(slot)
        own = np.array([norms[ids == unit].sum() for unit in group.units])
        total += own / max(float(norms.sum()), 1e-30)
    return ranked(group, total)


def ranked(group: Group, scores: Array) -> Ranking:
    """By a score for each unit, in the order of ``group.units``."""
    order = np.argsort(scores, kind="stable")
    return Ranking(group, group.units[order], np.concatenate([[0.0], np.cumsum(scores[order])]))
