"""``prune``: structured pruning to a measured latency, or to a share of the work or the parameters, and its repair."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxopt.commands.common import Source, check_output, first_feeds, open_model, workspace
from onnxopt.commands.fallback import with_fallback
from onnxopt.commands.inspect_prune import prepared
from onnxopt.commands.prune_depth import shallow
from onnxopt.commands.prune_file import Made, Writing
from onnxopt.commands.prune_fisher import fisher_scores
from onnxopt.commands.prune_masks import masked, wanted_zeros
from onnxopt.commands.prune_options import Prune, chosen_goal, chosen_importance, kept_labels, refuse_unfit
from onnxopt.commands.prune_report import Outcome, nothing, out_of_reach, prune_report
from onnxopt.commands.quantize_data import SEARCH_SAMPLES, fitted_to, split_data, spread
from onnxopt.commands.recovery import Recovery, check_recovery, check_samples, distilled_outcome
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.report import Note, Report
from onnxopt.data.dataset import Dataset
from onnxopt.errors import UsageError
from onnxopt.evaluate.compare import Scorer
from onnxopt.measurement.paired import compare_latency
from onnxopt.passes.base import Context, Step
from onnxopt.pruning.goals import Goal, Price, Tried, open_price, search
from onnxopt.pruning.importance import Importance
from onnxopt.pruning.pruner import Pruner, open_pruner
from onnxopt.pruning.sensitivity import scaled
from onnxopt.pruning.soundness import sound
from onnxopt.pruning.times import block_size
from onnxopt.recover.options import Training
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["TIME_LIMIT_S", "prune"]

TIME_LIMIT_S = 300.0
WEIGHING = 0.3
"""Of the time limit, for how much each group matters to the output."""
FINE = 4
"""Step in channels where work or parameters are the goal; widths for the blocks of the kernels are tried beside it."""
TOLERANCE = 0.02
"""What the final measurement may lie above a latency goal."""
BISECTIONS = 4
MEASURED, FASTER = 3, 0.97
"""Models that are measured where those before turn out slower than the input."""
LEAST, MOST = 0.25, 0.95
"""Between these shares of the latency the fastest model within the budget is looked for."""


def prune(
    path: Path,
    output: Path,
    source: Source,
    *,
    latency: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    sparsity: float | None = None,
    nm: str | None = None,
    drop_blocks: int | None = None,
    recover: Recovery | None = None,
    max_drop: float | None = None,
    importance: Importance | None = None,
    keep: Sequence[str] = (),
    factor: bool = True,
    eval_data: str | None = None,
    metric: str | None = None,
    output_name: str | None = None,
    target: Target | None = None,
    keep_failing: bool = False,
    accept_inconclusive: bool = False,
    time_limit: float = TIME_LIMIT_S,
    progress: Progress | None = None,
) -> Report:
    """Cuts channels, heads and hidden units; solves what reads them for the original outputs; judges; measures.

    Args:
        path: The model; it is not changed.
        output: Where the result goes.
        source: Data to fit to; labels are only used to judge.
        latency: Share of the latency that may stay, measured on ``target``.
        macs: Share of the multiply-accumulates that may stay.
        params: Share of the parameters that may stay.
        sparsity: Share of the weights that become zero; shapes stay as they are.
        nm: ``N:M``, of M neighbours along the input channels at most N weights stay.
        drop_blocks: Number of residual branches that go.
        recover: ``"distill"``: what was repaired is trained to answer as the input does; kept where that is better.
        max_drop: Largest drop of the metric; alone: the fastest model within it is looked for.
        importance: How units are ranked; default: ``"obs"``.
        keep: Patterns of node names, or op types, that keep all the channels they make, and stay one node.
        factor: Whether a Conv may become two of lower rank.
        eval_data: Data to judge by; default: a held-back part of ``source``.
        metric: Name of the metric; default: the one that fits outputs and labels.
        output_name: Name of the output that the metric judges.
        target: Where the model is to run.
        keep_failing: Write the best result even when it fails.
        accept_inconclusive: Write it when the measurement was too noisy to decide.
        time_limit: Seconds after which no further way to share the cut out is tried (weighing the groups counts), and
            after which training ends.
        progress: Told of each step.

    Raises:
        UsageError: No goal, several, or one that is no share; a pattern that matches nothing; no data.
        OnnxoptError: The model or the data cannot be used, or the output cannot be written.
    """
    zeros = wanted_zeros(sparsity, nm)
    others = {"sparsity": sparsity, "nm": nm, "drop-blocks": drop_blocks}
    goal = chosen_goal({"latency": latency, "macs": macs, "params": params}, others, max_drop)
    importance = chosen_importance(importance, others, factor=factor)
    if recover is not None and zeros is not None:
        raise UsageError(
            "training would fill the zeros again",
            where=f"--recover {recover}",
            fix="leave it out with --sparsity and --nm; their layers are repaired in closed form",
        )
    check_recovery(recover)
    target, progress = target or Target(), progress or SilentProgress()
    if source.path is None:
        raise UsageError(
            "pruning needs data: what is cut, and what repairs it, follows from them",
            where="--data",
            fix="give some hundred unlabelled inputs; labels are only used to judge",
        )
    model = open_model(path, target)
    refuse_unfit(model, path)
    kept = kept_labels(model, keep)
    final = check_output(output, path, source.path, eval_data, source.preprocess)
    fitted, held_back = split_data(source, eval_data, path, model, target, fitted_to)
    check_samples(recover, fitted, held_back, eval_data)
    searched = fitted if recover is None else spread(fitted, SEARCH_SAMPLES)
    scorer = Scorer(path, held_back, target, metric=metric, output=output_name, seed=source.seed, progress=progress)
    with workspace() as folder:
        ctx = Context(folder, searched, target, source.seed, progress)
        feeds = first_feeds(held_back)
        clean, shapes = prepared(model, path, fitted[0].feeds, ctx)
        scores = fisher_scores(importance, fitted, scorer.output, ctx)
        writing = Writing(path, final, target, max_drop, keep_failing, accept_inconclusive)
        if zeros is not None:
            found = masked(path, clean, shapes, zeros, ctx, scorer, feeds, held_back, max_drop=max_drop, keep=kept)
            return found if isinstance(found, Report) else _written(found, writing, fitted, feeds)
        if drop_blocks is not None:
            shorter = shallow(path, clean, shapes, drop_blocks, ctx, scorer, feeds, kept)
            if isinstance(shorter, Report):
                return shorter
            pruner, outcome, table = shorter
            outcome, taught, said = _taught(outcome, recover, pruner, fitted, scorer, feeds, time_limit)
            report = prune_report(path, outcome, pruner, None, max_drop, held_back, searched)
            report = replace(report, tables=(table, *report.tables[1:]), notes=(*said, *report.notes))
            steps = [_step(outcome, pruner, f"drop-blocks {drop_blocks}", importance, 1), *taught]
            return _written(_made(report, outcome, pruner, steps), writing, fitted, feeds)
        timed = goal is None or goal.kind == "latency"
        block = block_size(target, folder) if timed else FINE
        pruner = open_pruner(
            clean,
            path,
            shapes,
            ctx,
            method=importance,
            block=block,
            strict=timed,
            keep=kept,
            scores=scores,
            factor=factor,
        )
        if not pruner.structure.groups and not pruner.factors:
            return nothing(path, pruner)
        pruner, unsound = sound(pruner, feeds)
        start = time.monotonic()
        pruner = scaled(pruner, scorer.output, time_limit * WEIGHING)
        price = open_price(pruner, "latency" if goal is None else goal.kind, feeds)
        if goal is not None and price.least > goal.ratio:
            return out_of_reach(path, pruner, price, goal)
        left = max(0.0, time_limit - (time.monotonic() - start))
        if goal is not None:
            outcome = _reach(pruner, price, goal, scorer, feeds, left)
        else:
            outcome = _fastest(pruner, price, max_drop or 0.0, scorer, feeds, left)
        outcome, taught, said = _taught(outcome, recover, pruner, fitted, scorer, feeds, time_limit)
        report = prune_report(path, outcome, pruner, goal, max_drop, held_back, searched)
        report = replace(report, notes=(*unsound, *said, *report.notes))
        if outcome.chosen.pruned is None:
            return report
        item = "" if goal is None else f"{goal.kind} {goal.ratio:g}"
        steps = [_step(outcome, pruner, item, importance, block), *taught]
        return _written(_made(report, outcome, pruner, steps), writing, fitted, feeds)


def _taught(
    outcome: Outcome,
    recover: Recovery | None,
    pruner: Pruner,
    training: Dataset,
    scorer: Scorer,
    feeds: Sequence[Feeds],
    time_limit: float,
) -> tuple[Outcome, tuple[Training, ...], tuple[Note, ...]]:
    """The outcome after distillation, where it is wanted; the recipe, where that was better; what is said of it."""
    if recover is None or outcome.chosen.pruned is None:
        return outcome, (), ()
    ctx = replace(pruner.ctx, data=training)
    found, recipe, note = distilled_outcome(outcome, pruner.reference, scorer, feeds, ctx, time_limit)
    return found, () if recipe is None else (recipe,), (note,)


def _step(outcome: Outcome, pruner: Pruner, goal: str, importance: Importance, block: int) -> Prune:
    pruned = outcome.made
    kept = tuple((group.name, k) for group, k in pruner.widths(pruned.kept) if k < len(group.units))
    ranks = tuple((factor.layer.name, rank) for factor, rank in pruner.splits(pruned.kept))
    return Prune(goal, importance, block, kept, pruned.dropped, ranks)


def _made(report: Report, outcome: Outcome, pruner: Pruner, steps: Sequence[Step]) -> Made:
    pruned = outcome.made
    cut = sum(len(group.units) - k for group, k in pruner.widths(pruned.kept))
    changes = {"prune": cut + len(pruned.dropped) + len(pruner.splits(pruned.kept))}
    return Made(report, steps, changes, pruned.comparison, pruned.model, pruned.path)


def _written(made: Made, writing: Writing, fitted: Dataset, feeds: Sequence[Feeds]) -> Report:
    writing.write(made, fitted)
    return with_fallback(made.report, {"input": writing.source, "output": made.path}, feeds, writing.target)


def _reach(
    pruner: Pruner, price: Price, goal: Goal, scorer: Scorer, feeds: Sequence[Feeds], time_limit: float
) -> Outcome:
    """The best model for a goal, measured in fresh processes; a latency that misses it then is corrected once.

    That is done for the way that was chosen alone.
    """
    outcome = _measured(pruner, price, search(pruner, price, goal.ratio, scorer, feeds, time_limit), feeds)
    if goal.kind != "latency" or outcome.measured is None:
        return outcome
    miss = goal.ratio - outcome.measured.ratio
    if abs(miss) <= TOLERANCE:
        return outcome
    aim = min(max(goal.ratio + miss, price.least), 1.0)
    found = search(pruner, price, aim, scorer, feeds, 0.0, outcome.chosen.name)
    again = _measured(pruner, price, [replace(one, name=f"{one.name}, corrected") for one in found], feeds)
    nearer = again.measured is not None and abs(goal.ratio - again.measured.ratio) < abs(miss)
    return replace(again, tried=(*again.tried, *outcome.tried)) if nearer else outcome


def _measured(pruner: Pruner, price: Price, tried: Sequence[Tried], feeds: Sequence[Feeds]) -> Outcome:
    """The first of ``tried``, measured in fresh processes; where work or parameters count, the first not slower.

    After ``MEASURED`` that are slower only those are measured that were clearly faster in the quick measurement.
    """
    ctx, measured = pruner.ctx, list[Outcome]()
    made = [(one, one.pruned.path) for one in tried if one.pruned is not None]
    further = [pair for pair in made[MEASURED:] if pair[0].latency < FASTER]
    for one, path in made[:1] if price.kind == "latency" else [*made[:MEASURED], *further[:MEASURED]]:
        latency = compare_latency(pruner.reference, path, feeds, ctx.target, seed=ctx.seed, progress=ctx.progress)
        slower = tuple(outcome.chosen.name for outcome in measured)
        measured.append(Outcome(one, tuple(tried), latency, price, slower))
        if latency.decision != "slower":
            return measured[-1]
    return measured[0] if measured else Outcome(tried[0], tuple(tried), None, price)


def _fastest(
    pruner: Pruner, price: Price, max_drop: float, scorer: Scorer, feeds: Sequence[Feeds], time_limit: float
) -> Outcome:
    """The fastest model within the budget, by bisection over the latency; the least cut one where none is."""
    low, high = max(price.least, LEAST), MOST
    best: Tried | None = None
    tried: list[Tried] = []
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = search(pruner, price, middle, scorer, feeds, time_limit / BISECTIONS)
        tried += found
        within = [t for t in found if t.pruned is not None and t.pruned.comparison.is_within(max_drop)]
        if within:
            best, high = within[0], middle
        else:
            low = middle
    chosen = best or max((t for t in tried if t.pruned is not None), key=lambda t: t.share)
    return _measured(pruner, price, [chosen, *(t for t in tried if t is not chosen)], feeds)
