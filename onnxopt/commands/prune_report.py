"""What ``prune`` says: widths, Convs that became two, what was tried, and the evidence for what was chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.commands.common import accuracy_table, as_json, data_notes, drift_table, latency_table, size_table
from onnxopt.core.cost import cost
from onnxopt.core.report import JSON, Note, Report, Status, Table, Verdict
from onnxopt.core.shapes import static_shapes
from onnxopt.data.dataset import Dataset
from onnxopt.measurement.paired import LatencyComparison
from onnxopt.pruning.goals import Goal, Price, Tried
from onnxopt.pruning.pruner import Pruned, Pruner

__all__ = ["Outcome", "nothing", "out_of_reach", "prune_report"]

TOLERANCE = {"latency": 0.02, "macs": 0.0, "params": 0.0}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the search came to.

    Attributes:
        chosen: The best.
        tried: All ways, the best first.
        measured: Its latency against the input model.
        price: The cost that was to be lowered.
        slower: Names of better ones that were measured to be slower than the input.
    """

    chosen: Tried
    tried: tuple[Tried, ...]
    measured: LatencyComparison | None
    price: Price
    slower: tuple[str, ...] = ()

    @property
    def made(self) -> Pruned:
        """The chosen model.

        Raises:
            ValueError: There is none.
        """
        if self.chosen.pruned is None:
            raise ValueError("nothing was made")
        return self.chosen.pruned


def nothing(path: Path, pruner: Pruner) -> Report:
    """The report for a model from which nothing can be cut."""
    barriers = pruner.structure.barriers
    counts = Counter(note.reason for note in barriers)
    why = (
        "; ".join(f"{n}x {reason}" for reason, n in counts.most_common(3))
        or "no channel lies between two of its layers"
    )
    reason = f"nothing can be cut from {path.name}: {why}"
    return Report("prune", Verdict(Status.UNCHANGED, reason), {"groups": []}, notes=barriers)


def out_of_reach(path: Path, pruner: Pruner, price: Price, goal: Goal) -> Report:
    """The report for a goal below what the narrowest widths cost."""
    reason = (
        f"{goal.kind} {goal.ratio:g} is out of reach for {path.name}: with every group as narrow as it may be "
        f"{price.least:.3f} stays"
    )
    data: dict[str, JSON] = {"goal": {goal.kind: goal.ratio}, "least": price.least}
    return Report("prune", Verdict(Status.FAIL, reason), data, notes=pruner.structure.barriers)


def prune_report(
    path: Path,
    outcome: Outcome,
    pruner: Pruner,
    goal: Goal | None,
    max_drop: float | None,
    held_back: Dataset,
    fitted: Dataset,
) -> Report:
    """The report of a search.

    Args:
        path: The input model.
        outcome: What the search came to.
        pruner: The model.
        goal: What was to be reached; ``None``: the fastest within the budget.
        max_drop: The budget.
        held_back: Samples that judged.
        fitted: Samples that were fitted to.
    """
    pruned, measured = outcome.chosen.pruned, outcome.measured
    tables: list[Table] = [_tried_table(outcome)]
    data: dict[str, JSON] = {
        "goal": None if goal is None else {goal.kind: goal.ratio},
        "fitted_samples": len(fitted),
        "judged_on": len(held_back),
        "tried": [
            {
                "name": t.name,
                "share": None if t.pruned is None else t.share,
                "latency": _known(t.latency),
                "sqnr_db": None if t.pruned is None else t.pruned.sqnr_db,
                "drop": None if t.pruned is None else t.pruned.comparison.drop,
            }
            for t in outcome.tried
        ],
    }
    if pruned is not None and measured is not None:
        shares = _shares(pruner, pruned)
        tables += [
            *_widths_tables(pruner, pruned),
            Table("Cost", ("", "input", "output", "share"), tuple((k, a, b, b / a) for k, (a, b) in shares.items())),
            accuracy_table(pruned.comparison),
            drift_table(pruned.comparison),
            size_table({"input": path, "output": pruned.path}),
            latency_table({pruned.name: measured}, "Against the input, interleaved in fresh processes"),
        ]
        data |= {
            "groups": [{"name": g.name, "units": len(g.units), "kept": int(k)} for g, k in pruner.widths(pruned.kept)],
            "ranks": [{"name": f.layer.name, "rank": r} for f, r in pruner.splits(pruned.kept)],
            "cost": {k: {"input": a, "output": b} for k, (a, b) in shares.items()},
            "comparison": as_json(pruned.comparison),
            "latency": as_json(measured),
            "repaired_layers": pruned.repaired.solved,
            "dropped_blocks": list(pruned.dropped),
        }
    notes = (*_notes(pruner, pruned, len(fitted)), *data_notes(held_back))
    return Report("prune", _verdict(outcome, pruner, goal, max_drop), data, tuple(tables), notes)


def _verdict(outcome: Outcome, pruner: Pruner, goal: Goal | None, max_drop: float | None) -> Verdict:
    pruned, measured = outcome.chosen.pruned, outcome.measured
    if pruned is None or measured is None:
        return Verdict(Status.FAIL, "no pruned model could be made")
    comparison = pruned.comparison
    speed = f"{1 / measured.ratio:.2f}x as fast (ratio {measured.low:.3f} .. {measured.high:.3f})"
    drop = f"{comparison.metric} {comparison.reference_score:.4g} -> {comparison.candidate_score:.4g}"
    share = "" if goal is None or goal.kind == "latency" else f"{goal.kind} {outcome.chosen.share:.3f}, "
    text = f"{pruned.name}: {share}{speed}, {drop}"
    if max_drop is not None and not comparison.is_within(max_drop):
        return Verdict(Status.FAIL, f"over the budget of {max_drop:g}: {text}")
    if goal is not None and goal.kind == "latency" and measured.ratio > goal.ratio + TOLERANCE["latency"]:
        return Verdict(Status.FAIL, f"the goal of {goal.ratio:g} is missed: {text}")
    if measured.decision == "slower":
        return Verdict(Status.FAIL, f"slower than the input: {text}")
    if measured.decision == "inconclusive":
        return Verdict(Status.INCONCLUSIVE, f"too noisy to say that it is not slower: {text}")
    return Verdict(Status.PASS, text)


def _shares(pruner: Pruner, pruned: Pruned) -> dict[str, tuple[int, int]]:
    inputs = {v.name or "": pruner.shapes[v.name or ""] for v in pruner.model.graph.inputs if v.name in pruner.shapes}
    before = cost(pruner.model, pruner.shapes)
    after = cost(pruned.model, static_shapes(pruned.model, inputs))
    found = {"params": (before.params, after.params)}
    if before.total_macs and not after.unknown:
        found["macs"] = (before.total_macs, after.total_macs)
    return found


def _tried_table(outcome: Outcome) -> Table:
    rows = tuple(
        (
            t.name,
            None if t.pruned is None else t.share,
            None if t.pruned is None else t.pruned.sqnr_db,
            None if t.pruned is None else t.pruned.comparison.candidate_score,
            *(() if outcome.price.kind == "latency" else (_known(t.latency),)),
            _said(t, outcome),
        )
        for t in outcome.tried
    )
    speed = () if outcome.price.kind == "latency" else ("latency",)
    return Table("Ways to share the cut out", ("way", outcome.price.kind, "SQNR dB", "score", *speed, ""), rows)


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _said(tried: Tried, outcome: Outcome) -> str:
    if tried.name == outcome.chosen.name:
        return "chosen"
    if tried.name in outcome.slower:
        return "slower than the input"
    return "not tried: out of time" if tried.pruned is None else ""


def _widths_tables(pruner: Pruner, pruned: Pruned) -> Iterator[Table]:
    rows = [(g.name, len(g.units), k, k / len(g.units)) for g, k in pruner.widths(pruned.kept) if k < len(g.units)]
    if rows:
        yield Table("Units", ("group", "before", "after", "share"), tuple(rows))
    two = [(f.layer.name, "x".join(map(str, f.shape)), rank) for f, rank in pruner.splits(pruned.kept)]
    if two:
        yield Table("Convolutions that became two", ("node", "weights", "channels between"), tuple(two))


def _notes(pruner: Pruner, pruned: Pruned | None, given: int) -> Sequence[Note]:
    notes = list(pruner.structure.barriers)
    if pruned is not None:
        notes += [Note(name, "dropped", "its residual branch changed little and is gone") for name in pruned.dropped]
    if pruned is not None and 0 < pruned.repaired.samples < given:
        reason = f"{pruned.repaired.samples} of {given} samples were fitted to: more would not fit into memory"
        notes.append(Note("repair", "limited", reason))
    return notes
