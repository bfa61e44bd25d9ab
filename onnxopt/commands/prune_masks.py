"""``prune --sparsity 0.9`` and ``prune --nm 2:4``: zeros in the weights, for size and for runtimes that use them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from onnxopt.commands.common import accuracy_table, as_json, data_notes, drift_table, latency_table
from onnxopt.commands.prune_file import Made
from onnxopt.core.io import data_files, save_scratch
from onnxopt.core.query import Model
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.data.dataset import Dataset
from onnxopt.errors import UsageError
from onnxopt.evaluate.compare import Scorer
from onnxopt.evaluate.tally import Comparison
from onnxopt.evaluate.verify import verify
from onnxopt.measurement.paired import LatencyComparison, compare_latency
from onnxopt.passes.base import Context
from onnxopt.pruning.layers import Layer, layers
from onnxopt.pruning.masks import Pattern, read_pattern
from onnxopt.pruning.repair import with_biases
from onnxopt.pruning.sparse import Wanted, maskable, shares_by_error, sparsified
from onnxopt.pruning.structure import analyse
from onnxopt.pruning.surgery import numbers, with_values
from onnxopt.run.session import Feeds

__all__ = ["Zeros", "masked", "wanted_zeros"]

DENSE = Note(
    "runtime",
    "note",
    "ONNX Runtime's CPU provider does not run sparse weights faster: the model is stored and computed dense; the zeros "
    "help compressed files, and runtimes with sparse kernels (TensorRT and cuSPARSELt for 2:4, DeepSparse-like ones)",
)
CHUNK = 1 << 20


@dataclass(frozen=True)
class Zeros:
    """What was done, as a recipe.

    Attributes:
        sparsity: Share of the weights that became zero.
        pattern: ``"2:4"``, ...; ``None``: anywhere.
        allocation: How the share was divided among the layers.
    """

    name: ClassVar[str] = "prune-weights"

    sparsity: float
    pattern: str | None
    allocation: str


@dataclass(frozen=True, eq=False)
class _Way:
    """One way to divide the zeros among the layers."""

    name: str
    wanted: Wanted
    model: Model
    path: Path
    comparison: Comparison
    samples: int

    @property
    def sqnr_db(self) -> float:
        found = [d.sqnr_db for d in self.comparison.drift if d.name == self.comparison.output]
        return float("-inf") if not found or found[0] is None else found[0]


def wanted_zeros(sparsity: float | None, nm: str | None) -> float | Pattern | None:
    """What ``--sparsity`` or ``--nm`` asks for; ``None``: nothing.

    Raises:
        UsageError: Both, or a value that is no share or no pattern.
    """
    if sparsity is not None and nm is not None:
        raise UsageError("there is more than one goal", where="--sparsity --nm", fix="give one of them")
    if nm is not None:
        return read_pattern(nm)
    if sparsity is not None and not 0 < sparsity < 1:
        raise UsageError(
            f"{sparsity:g} is no share of zeros", where="--sparsity", fix="give a number between 0 and 1, such as 0.9"
        )
    return sparsity


def masked(
    path: Path,
    clean: Model,
    shapes: Mapping[str, tuple[int, ...]],
    wanted: float | Pattern,
    ctx: Context,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    held_back: Dataset,
    *,
    max_drop: float | None,
    keep: frozenset[str],
) -> Made | Report:
    """The model with zeros and its report; only a report where no layer takes any.

    Args:
        path: The input model.
        clean: It, cleaned up.
        shapes: Shapes of the values of ``clean`` in one call.
        wanted: Share of the weights that go, or a pattern.
        ctx: Data to fit to, target, folder, seed.
        scorer: Judges on held-back samples.
        feeds: Inputs to check and to time on.
        held_back: What the scorer judges on.
        max_drop: The budget.
        keep: Labels of nodes that stay dense.
    """
    full = with_biases(clean)
    pattern = wanted if isinstance(wanted, Pattern) else None
    found = layers(full.graph, analyse(full, shapes))
    asked = tuple(Note(layer.name, "dense", "it was asked to stay") for layer in found if layer.name in keep)
    taken, notes = maskable(full, [layer for layer in found if layer.name not in keep], pattern)
    if not taken:
        reason = f"no layer of {path.name} takes zeros: " + "; ".join(f"{n.node}: {n.reason}" for n in notes[:3])
        return Report("prune", Verdict(Status.UNCHANGED, reason), {"layers": []}, notes=(*asked, *notes))
    ways: list[_Way] = []
    for name, shares in _divisions(full, taken, wanted, ctx).items():
        weights, samples = sparsified(full, taken, shares, shapes, ctx)
        model = with_values(full, weights)
        file = ctx.workdir / f"{name}.onnx"
        save_scratch(model, file)
        verify(path, file, feeds, ctx.target, exact=False)
        ways.append(_Way(name, shares, model, file, scorer.compare(file), samples))
    best = max(ways, key=lambda way: way.sqnr_db)
    latency = compare_latency(path, best.path, feeds, ctx.target, seed=ctx.seed, progress=ctx.progress)
    table, overall, count = _zeros(best.model, taken)
    report = _report(path, best, ways, latency, table, overall, held_back, max_drop)
    report = Report(report.command, report.verdict, report.data, report.tables, (*report.notes, *asked, *notes))
    item = Zeros(round(overall, 4), None if pattern is None else str(pattern), best.name)
    return Made(report, [item], {"prune-weights": count}, best.comparison, best.model, best.path)


def _divisions(full: Model, taken: Sequence[Layer], wanted: float | Pattern, ctx: Context) -> dict[str, Wanted]:
    same: Wanted = {layer.name: wanted for layer in taken}
    if isinstance(wanted, Pattern) or len(taken) < 2:
        return {"uniform": same}
    by_error = shares_by_error(full, taken, wanted, ctx)
    mixed = {name: (share + wanted) / 2 for name, share in by_error.items()}
    return {"uniform": same, "by error": by_error, "mixed": mixed}


def _zeros(model: Model, taken: Sequence[Layer]) -> tuple[Table, float, int]:
    """Zeros of each layer; their share of the weights of these layers; their number."""
    rows: list[tuple[str, int, int, float]] = []
    for layer in taken:
        array = numbers(model.graph.initializers[layer.linear.weight.name or ""])
        zeros = int((array == 0).sum())
        rows.append((layer.name, array.size, zeros, zeros / array.size))
    total, zeros = sum(row[1] for row in rows), sum(row[2] for row in rows)
    rows.append(("all of these", total, zeros, zeros / total))
    return Table("Zeros", ("layer", "weights", "zeros", "share"), tuple(rows)), zeros / total, zeros


def _report(
    path: Path,
    best: _Way,
    ways: Sequence[_Way],
    latency: LatencyComparison,
    zeros: Table,
    overall: float,
    held_back: Dataset,
    max_drop: float | None,
) -> Report:
    comparison = best.comparison
    sizes = {name: (_bytes(file), _compressed(file)) for name, file in (("input", path), ("output", best.path))}
    packed = sizes["output"][1] / sizes["input"][1]
    text = (
        f"{100 * overall:.1f} % of the weights of {len(zeros.rows) - 1} layers are zero ({best.name}), "
        f"{comparison.metric} {comparison.reference_score:.4g} -> {comparison.candidate_score:.4g}, compressed "
        f"{packed:.2f} of the input's size; not faster in ONNX Runtime"
    )
    over = max_drop is not None and not comparison.is_within(max_drop)
    verdict = Verdict(
        Status.FAIL if over else Status.PASS, f"over the budget of {max_drop:g}: {text}" if over else text
    )
    tried = tuple(
        (way.name, way.sqnr_db, way.comparison.candidate_score, "chosen" if way is best else "") for way in ways
    )
    size_rows = tuple((name, *pair, pair[1] / sizes["input"][1]) for name, pair in sizes.items())
    tables = (
        Table("Ways to divide the zeros", ("way", "SQNR dB", "score", ""), tried),
        zeros,
        accuracy_table(comparison),
        drift_table(comparison),
        Table("Size", ("model", "bytes, as stored", "bytes, zlib", "share, zlib"), size_rows),
        latency_table({best.name: latency}, "Against the input, interleaved in fresh processes"),
    )
    data: dict[str, JSON] = {
        "sparsity": overall,
        "layers": [dict(zip(("name", "weights", "zeros", "share"), row, strict=True)) for row in zeros.rows[:-1]],
        "tried": [{"name": way.name, "sqnr_db": way.sqnr_db, "drop": way.comparison.drop} for way in ways],
        "size": {name: {"bytes": stored, "zlib_bytes": small} for name, (stored, small) in sizes.items()},
        "comparison": as_json(comparison),
        "latency": as_json(latency),
        "fitted_samples": best.samples,
    }
    return Report("prune", verdict, data, tables, (DENSE, *data_notes(held_back)))


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in data_files(path))


def _compressed(path: Path) -> int:
    """Bytes of the model's files behind zlib, as gzip or zip would store them."""
    count = 0
    for file in data_files(path):
        packer = zlib.compressobj(6)
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                count += len(packer.compress(chunk))
        count += len(packer.flush())
    return count
