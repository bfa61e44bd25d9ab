"""An ensemble in a file: fitted, built, compared with separate sessions, judged against its best member."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from onnxopt.core.progress import Progress
from onnxopt.core.query import Model
from onnxopt.core.report import JSON, Note
from onnxopt.data.dataset import Dataset
from onnxopt.errors import VerificationError
from onnxopt.measurement.paired import LatencyComparison
from onnxopt.merging.align import Alignment
from onnxopt.merging.calls import Calls
from onnxopt.merging.cascade import build_cascade, check_batch
from onnxopt.merging.costs import member_costs
from onnxopt.merging.exits import Exits, choose_exits
from onnxopt.merging.fit import Fitted, Setting, fit
from onnxopt.merging.forms import forms_for
from onnxopt.merging.judge import Judgement, judge
from onnxopt.merging.rules import Combination
from onnxopt.merging.strategies import Cascade, Strategy
from onnxopt.merging.trunk import Shared
from onnxopt.merging.written import Difference, build, save_checked, verify_outputs
from onnxopt.run.target import Target

__all__ = ["VERIFIED", "Ensemble", "Fuse", "Fusion", "cascade", "combine"]

VERIFIED = 64
"""Samples on which the file is compared with separate sessions."""


Fuse = Literal["auto", "on", "off"]
"""Whether members of one architecture are computed side by side: where measured faster, always, never."""


@dataclass(frozen=True)
class Fusion:
    """Members of one architecture side by side, measured against one after the other.

    Attributes:
        operators: Operators of one member that run once for all of them.
        members: How many members take part.
        is_whole: Whether all members are side by side up to their outputs.
        is_kept: Whether it is in the result.
        latency: Side by side against one after the other, in one file both.
    """

    operators: int
    members: int
    is_whole: bool
    is_kept: bool
    latency: LatencyComparison


@dataclass(frozen=True)
class Ensemble:
    """What was made of the members.

    Attributes:
        strategy: How.
        model: The result.
        path: Where it is, among the intermediate files.
        keep: Places of the members that take part.
        difference: How far it is from separate sessions.
        shared: What the members had in common.
        judgement: Against the best member; ``None``: there are no labels.
        facts: Figures of the fit.
        notes: What was decided on the way.
        is_conditional: Whether its time depends on the values.
        combination: The rule that the file computes of all outputs, where it is one.
        fusion: Members of one architecture side by side, where that was tried.
    """

    strategy: Strategy
    model: Model
    path: Path
    keep: tuple[int, ...]
    difference: Difference
    shared: Shared
    judgement: Judgement | None
    facts: dict[str, JSON] = field(default_factory=dict[str, "JSON"])
    notes: tuple[Note, ...] = ()
    is_conditional: bool = False
    combination: Combination | None = None
    fusion: Fusion | None = None


def combine(
    strategy: Strategy,
    setting: Setting,
    alignment: Alignment,
    calls: Calls,
    held_back: Calls | None,
    *,
    data: Dataset,
    target: Target,
    folder: Path,
    progress: Progress,
) -> Ensemble:
    """The ensemble of a strategy that is a rule over all outputs.

    Raises:
        VerificationError: The file is not the ensemble of its members.
        DataError: Labels are needed and missing, or do not fit.
    """
    with progress.task("fitting", None):
        fitted = fit(strategy, setting, calls)
        judgement = None
        if setting.metric is not None:

            def refit(part: Calls) -> Combination:
                return fit(strategy, setting, part).combination

            judgement = judge(refit, calls, setting.metric, setting.seed, held_back=held_back)
    path = folder / "ensemble.onnx"
    model, shared, difference, notes = _built(alignment, fitted, calls, data, target, path)
    dropped = [m.title for k, m in enumerate(alignment.members) if k not in fitted.combination.keep]
    notes += tuple(Note(title, "dropped", "its weight is 0: the others do better without it") for title in dropped)
    return Ensemble(
        strategy,
        model,
        path,
        fitted.combination.keep,
        difference,
        shared,
        judgement,
        dict(fitted.facts),
        notes,
        combination=fitted.combination,
    )


def cascade(
    strategy: Cascade,
    setting: Setting,
    alignment: Alignment,
    calls: Calls,
    held_back: Calls | None,
    *,
    data: Dataset,
    target: Target,
    folder: Path,
) -> Ensemble:
    """The ensemble that stops early.

    Raises:
        UsageError: Outputs give no confidence, or the batch is fixed to more than one.
        VerificationError: The file does not answer as separate sessions with the same rule.
    """
    check_batch(alignment)
    forms, _ = forms_for(setting.task, "auto", setting.found, setting.shapes)
    costs = member_costs(alignment, data[0].feeds, target)
    exits, figures = choose_exits(strategy, setting.task, forms, costs, calls)
    judgement = None
    if setting.metric is not None:

        def refit(part: Calls) -> Exits:
            return choose_exits(strategy, setting.task, forms, costs, part)[0]

        judgement = judge(refit, calls, setting.metric, setting.seed, held_back=held_back)
    path = folder / "cascade.onnx"
    model, shared = build_cascade(alignment, exits)
    save_checked(model, path, target)
    difference = verify_outputs(path, data, [exits.compute(call) for call in calls.outputs[:VERIFIED]], target)
    used = np.concatenate([exits.run(call)[1] for call in calls.outputs])
    facts: dict[str, JSON] = {
        "order": [alignment.members[k].title for k in exits.order],
        "measure": exits.measure,
        "threshold": exits.threshold,
        "limits": list(exits.limits),
        "costs": list(exits.costs),
        "exits": [float((used == k + 1).mean()) for k in range(len(exits.order))],
        **figures,
    }
    shares = ", ".join(f"{100 * float((used == k + 1).mean()):.0f} %" for k in range(len(exits.order)))
    note = Note(
        "cascade",
        "exits",
        f"at {_limits_in_words(exits)} after 1, 2, ... members: {shares}; {100 * exits.cost(used):.0f} % of the cost "
        "of all members",
    )
    keep = tuple(range(len(alignment.members)))
    return Ensemble(strategy, model, path, keep, difference, shared, judgement, facts, (note,), True)


def _limits_in_words(exits: Exits) -> str:
    is_lead = exits.measure == "lead" and not exits.is_sides
    what = "a lead of the likeliest class" if is_lead else "a confidence"
    return f"{what} of {', '.join(f'{limit:.3g}' for limit in dict.fromkeys(exits.limits))}"


def _built(
    alignment: Alignment, fitted: Fitted, calls: Calls, data: Dataset, target: Target, path: Path
) -> tuple[Model, Shared, Difference, tuple[Note, ...]]:
    """The model, written and verified; with equal work done once where that keeps it equal."""
    expected = [fitted.combination.compute(call) for call in calls.outputs[:VERIFIED]]
    model, shared = build(alignment, fitted.combination)
    try:
        save_checked(model, path, target)
        return model, shared, verify_outputs(path, data, expected, target), ()
    except VerificationError as error:
        if not (shared.nodes or shared.weights):
            raise
        note = Note("shared work", "left out", f"with it {error.what}")
    model, shared = build(alignment, fitted.combination, share=False)
    save_checked(model, path, target)
    return model, shared, verify_outputs(path, data, expected, target), (note,)
