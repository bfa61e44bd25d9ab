"""One model, its structure and its rankings; makes, checks and judges pruned forms of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt.core.io import save_scratch
from onnxopt.core.query import Model, graphs
from onnxopt.core.tensors import Array
from onnxopt.errors import VerificationError
from onnxopt.evaluate.compare import Scorer
from onnxopt.evaluate.tally import Comparison
from onnxopt.evaluate.verify import verify
from onnxopt.passes.base import Context
from onnxopt.pruning.factors import Factor, error_curve, factors, split
from onnxopt.pruning.importance import Importance, Ranking, moments, rank, ranked, read_by_groups
from onnxopt.pruning.layers import Layer, layers
from onnxopt.pruning.plan import Menu, menu, units_to_cut
from onnxopt.pruning.repair import Repaired, repair, with_biases
from onnxopt.pruning.structure import Group, Structure, analyse
from onnxopt.pruning.surgery import cut, with_values, zeroed
from onnxopt.run.session import Feeds

__all__ = ["Pruned", "Pruner", "open_pruner", "tolerance"]

SPLIT = 10.0
"""So much more may a Conv that became two differ: it rounds once more."""
RTOL = 1e-5
"""Tolerated difference of the cut and the zeroed model, of the largest magnitude of an output."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned form of the model.

    Attributes:
        name: How its widths were found.
        kept: Units that each group keeps, and the rank of each factor.
        path: Its file.
        model: The model.
        repaired: What repair did.
        comparison: Its accuracy on held-back samples.
        dropped: Nodes whose residual branches are gone.
    """

    name: str
    kept: Array
    path: Path
    model: Model
    repaired: Repaired
    comparison: Comparison
    dropped: tuple[str, ...] = ()

    @property
    def sqnr_db(self) -> float:
        """Signal over error of the output that is judged; minus infinity where it is not known."""
        found = [d.sqnr_db for d in self.comparison.drift if d.name == self.comparison.output]
        return float("-inf") if not found or found[0] is None else found[0]


@dataclass(frozen=True, eq=False)
class Pruner:
    """What stays the same for all pruned forms.

    Attributes:
        model: The float model, with biases.
        reference: File of the input model.
        shapes: Shapes of its values in one call.
        structure: What can be cut.
        layers: Its linear nodes.
        rankings: One for each group.
        choices: The widths that are tried.
        ctx: Data to fit to, target, folder, seed.
        factors: Convs that may become two.
    """

    model: Model
    reference: Path
    shapes: Mapping[str, tuple[int, ...]]
    structure: Structure
    layers: tuple[Layer, ...]
    rankings: tuple[Ranking, ...]
    choices: Menu
    ctx: Context
    factors: tuple[Factor, ...] = ()

    def bare(self, kept: Array, name: str) -> Path:
        """The file of the cut model without repair: for its speed."""
        path = self.ctx.workdir / f"{name}.onnx"
        save_scratch(split(cut(self.model, self.shapes, self.dead(kept)), self.ranks(kept)), path)
        return path

    def widths(self, kept: Array) -> list[tuple[Group, int]]:
        """Each group, and the units it keeps."""
        groups = self.structure.groups
        return [(group, int(units)) for group, units in zip(groups, kept[: len(groups)], strict=True)]

    def splits(self, kept: Array) -> list[tuple[Factor, int]]:
        """The Convs that become two, and the channels between the two."""
        pairs = zip(self.factors, kept[len(self.structure.groups) :], strict=True)
        return [(factor, int(rank)) for factor, rank in pairs if rank < factor.full]

    def ranks(self, kept: Array) -> dict[str, int]:
        """Name of weights -> rank, of the Convs that become two."""
        return {factor.weight: rank for factor, rank in self.splits(kept)}

    def dead(self, kept: Array) -> frozenset[int]:
        """The units that go."""
        return units_to_cut(self.rankings, kept)

    def make(self, name: str, kept: Array, scorer: Scorer, feeds: Sequence[Feeds]) -> Pruned:
        """Cuts, repairs, checks and judges.

        Args:
            name: How the widths were found; also names the file.
            kept: Units that each group keeps, and the rank of each factor.
            scorer: Judges on held-back samples.
            feeds: Inputs to check on.

        Raises:
            VerificationError: The cut model is not the zeroed one, or loses what was finite.
        """
        dead = self.dead(kept)
        ranks = self.ranks(kept)
        repaired = repair(self.model, self.structure, self.layers, dead, self.shapes, self.ctx, ranks=ranks)
        file = f"{name}-{zlib.crc32(kept.tobytes()):08x}"
        model, path = self._checked(file, repaired.weights, dead, ranks, feeds)
        comparison = scorer.compare(path)
        made = Pruned(name, kept, path, model, repaired, comparison)
        if not repaired.weights or ranks:
            return made
        plain, plain_path = self._checked(f"{file}-plain", {}, dead, {}, feeds)
        before = Pruned(name, kept, plain_path, plain, Repaired({}, 0, 0), scorer.compare(plain_path))
        return made if made.sqnr_db >= before.sqnr_db else before

    def check(self, kept: Array, feeds: Sequence[Feeds]) -> None:
        """Raises unless the cut model, without repair, equals the zeroed one.

        Raises:
            VerificationError: It does not, or does not load.
        """
        dead = self.dead(kept)
        path, twin = self.ctx.workdir / "checked.onnx", self.ctx.workdir / "zeroed.onnx"
        save_scratch(cut(self.model, self.shapes, dead), path)
        save_scratch(zeroed(self.model, self.structure, dead), twin)
        verify(twin, path, feeds, self.ctx.target, rtol=tolerance(self.model))

    def _checked(
        self,
        name: str,
        weights: Mapping[str, Array],
        dead: Collection[int],
        ranks: Mapping[str, int],
        feeds: Sequence[Feeds],
    ) -> tuple[Model, Path]:
        changed = with_values(self.model, weights)
        small = cut(changed, self.shapes, dead)
        path, twin = self.ctx.workdir / f"{name}.onnx", self.ctx.workdir / "zeroed.onnx"
        save_scratch(small, path)
        save_scratch(zeroed(changed, self.structure, dead), twin)
        try:
            verify(twin, path, feeds, self.ctx.target, rtol=tolerance(self.model))
            if ranks:
                small = split(small, ranks)
                save_scratch(small, path)
                verify(twin, path, feeds, self.ctx.target, rtol=SPLIT * tolerance(self.model))
            verify(self.reference, path, feeds, self.ctx.target, exact=False)
        except VerificationError as error:
            raise VerificationError(
                f"cutting changed more than zeroing the same channels: {error.what}",
                where=f"{self.reference.name}, {error.where}",
                fix="nothing was written; keep layers out with --keep, and report the model that shows it",
            ) from error
        return small, path


def open_pruner(
    model: Model,
    reference: Path,
    shapes: Mapping[str, tuple[int, ...]],
    ctx: Context,
    *,
    method: Importance,
    block: int,
    strict: bool = False,
    keep: Collection[str] = (),
    scores: Callable[[Model, Structure], Sequence[Array]] | None = None,
    factor: bool = False,
) -> Pruner:
    """Analyses and ranks a cleaned-up model.

    Args:
        model: The float model, local functions inlined; it is not changed.
        reference: File of the input model.
        shapes: Shapes of the values of ``model`` in one call.
        ctx: Data to fit to, target, folder, seed.
        method: How units are ranked.
        block: Channels that the kernels of the target take together.
        strict: Whether narrow groups are cut in whole blocks too.
        keep: Labels of nodes that keep all their channels.
        scores: Gives a score for each unit of each group, in place of ``method``.
        factor: Whether Convs may become two of lower rank.
    """
    full = with_biases(model)
    structure = analyse(full, shapes, keep=keep)
    found = layers(full.graph, structure)
    two = factors(found, shapes, keep) if factor else ()
    wanted = dict.fromkeys((*read_by_groups(structure, found, method), *(one.layer.reads for one in two)))
    files = moments(full, tuple(wanted), ctx)
    if scores is None:
        rankings = rank(structure, found, files, ctx, method)
    else:
        given = scores(full, structure)
        rankings = tuple(ranked(group, own) for group, own in zip(structure.groups, given, strict=True))
    curves = [(one, partial(_curve, one, files[one.layer.reads])) for one in two]
    choices = menu(rankings, curves, block, strict=strict)
    return Pruner(full, reference, shapes, structure, found, rankings, choices, ctx, two)


def _curve(factor: Factor, files: Sequence[Path], ranks: Array) -> Array:
    return error_curve(factor, [np.load(path) for path in files], ranks)


def tolerance(model: Model) -> float:
    """Tolerated relative difference of two forms of the model that compute the same."""
    short = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    has_short = any(v.dtype in short for graph in graphs(model) for v in graph.initializers.values())
    return 1e-2 if has_short else RTOL
