"""The forms of a model that are tried: what is fixed first, how ranges are chosen, which layers stay float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.compare import Scorer
from onnxopt.measurement.profile import Profile
from onnxopt.passes.base import Context, Pass
from onnxopt.passes.registry import REWRITES, create
from onnxopt.quantization.dynamic import DynamicQuantize, macs_share
from onnxopt.quantization.fixes.choose import Fixes, choose_fixes, choose_rounding
from onnxopt.quantization.fixes.rounding import Rounding
from onnxopt.quantization.forms import is_quantizer, planned, with_float
from onnxopt.quantization.half.convert import HalfConvert
from onnxopt.quantization.mixed import MixedQuantize
from onnxopt.quantization.portability.deployment import Deployment
from onnxopt.quantization.ranges.calibrators import CALIBRATORS, Calibrator
from onnxopt.quantization.search.budget import Budget
from onnxopt.quantization.search.candidates import Candidate, best, not_tried, try_candidate
from onnxopt.quantization.search.gains import float_profile, gains, where_it_gains
from onnxopt.quantization.search.restore import RANKED_ON, keep_within
from onnxopt.quantization.search.runtime import better_settings, exact_sums
from onnxopt.quantization.search.tryout import least_error, output_errors
from onnxopt.quantization.select import stems
from onnxopt.quantization.static import StaticQuantize
from onnxopt.quantization.weight_only.candidates import WeightOptions, weight_candidates
from onnxopt.run.session import Feeds
from onnxopt.run.tap import observed_shapes

__all__ = ["Attempts", "Mode", "Search", "worth_restoring"]

Mode: TypeAlias = Literal["auto", "static", "dynamic", "weights", "float16", "bfloat16"]

SLACK = 4.0
"""A multiply-accumulate of a memory-bound layer is taken to cost at most this many times the average one."""
FIRST_CALIBRATORS: tuple[Calibrator, ...] = ("mse", "minmax")
"""What fixes are chosen under: outliers that a layer needs make the first lose, others the second."""
WORTH_MIXING = 0.97
"""Static and dynamic layers in one model must promise to take at most this share of the time of the better one."""
CLEARLY_MORE = 1.1
"""A form must have so many more integer layers than the leader to be worth the search for those to give up."""
TIME_OF_FIXES, TIME_OF_FORMS = 0.3, 0.6
"""Shares of a time limit after which no more fixes, and no more forms, are tried."""


@dataclass(frozen=True, eq=False)
class Attempts:
    """What was tried.

    Attributes:
        candidates: In the order in which they were tried.
        fixes: What was considered for the float model ahead of quantization, with the figures that decided on it.
        calibrators: Output error in dB with each calibrator, where they were compared.
        goal: What was looked for, to follow "no" and "the".
        notes: What was left out without a candidate of its own.
    """

    candidates: tuple[Candidate, ...]
    fixes: tuple[Fixes, ...] = ()
    calibrators: Mapping[Calibrator, float] = field(default_factory=dict[Calibrator, float])
    goal: str = "INT8 form is faster"
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Search:
    """Tries the forms that the mode allows, each judged and measured against the input model.

    Attributes:
        model: The cleaned-up float model; it is not changed.
        reference: File of the input model.
        mode: ``"static"``, ``"dynamic"``, ``"auto"`` for both; ``"weights"``, ``"float16"``, ``"bfloat16"``.
        exclude: Patterns of nodes that stay float.
        calibrator: How ranges follow from the data; ``"auto"``: that of least output error.
        rounding: How weights are rounded, where that lowers the error.
        max_drop: Largest drop of the metric.
        scorer: Judges accuracy on all held-back samples.
        held_back: These samples.
        feeds: Inputs to verify and to measure on.
        ctx: Calibration data, target, folder.
        budget: What the search may spend.
        place: Where the model is to run.
        weights: Decisions of the user for ``"weights"``.
    """

    model: Model
    reference: Path
    mode: Mode
    exclude: tuple[str, ...]
    calibrator: Calibrator | Literal["auto"]
    rounding: Rounding
    max_drop: float
    scorer: Scorer
    held_back: Dataset
    feeds: Sequence[Feeds]
    ctx: Context
    budget: Budget
    place: Deployment
    weights: WeightOptions = field(default_factory=WeightOptions)

    def run(self) -> Attempts:
        """All attempts: static and dynamic forms, both in one, sensitive layers in float, runtime settings."""
        if self.mode == "weights":
            tried_forms = weight_candidates(
                lambda name, item, model: self._try(name, item, Fixes(model), late=True),
                self.model,
                self.scorer,
                self.held_back,
                self.exclude,
                self.weights,
                self.ctx,
                self.budget,
            )
            return Attempts(tuple(tried_forms), goal="weight-only form is smaller, not slower")
        if self.mode == "float16" or self.mode == "bfloat16":
            candidate = self._try(self.mode, HalfConvert(self.mode, self.exclude), Fixes(self.model))
            return Attempts((candidate,), goal=f"{self.mode} form is faster")
        candidates: list[Candidate] = []
        fixed: list[Fixes] = []
        tried = dict[Calibrator, float]()
        has_data = self.ctx.data is not None and not self.ctx.data.synthetic
        if self.mode == "static" or (self.mode == "auto" and has_data):
            item, fixes, tried = self._prepared()
            fixed.append(fixes)
            candidates += self._static(item, fixes)
        known = self.place.is_here or all(c.outcome != "undecided" for c in candidates)
        if self.mode == "dynamic" or (self.mode == "auto" and self.place.dynamic and known):
            candidates += self._dynamic(candidates, fixed, has_data=has_data)
        if self.mode == "auto":
            args = self.reference, self.scorer, self.feeds, self.max_drop, self.ctx, self.place, self.budget
            candidates += exact_sums(candidates, *args)
            candidates += self._rounded(candidates, fixed)
            candidates += self._within_budget(candidates)
            leader = best(candidates)
            if leader is not None and self.budget.spent() is None:
                candidates += better_settings(leader, *args)
        return Attempts(tuple(candidates), tuple(fixed), tried)

    def _try(self, name: str, item: Pass, fixes: Fixes, *, late: bool = False) -> Candidate:
        """The candidate, or why there is no time for it; the first is always tried."""
        over = self.budget.spent(1.0 if late else TIME_OF_FORMS) if self.budget.evals else None
        if over is not None:
            return not_tried(name, item, over, self.ctx)
        args = self.reference, self.scorer, self.feeds, self.max_drop, self.ctx
        return try_candidate(name, item, fixes.model, *args, self.place, fixes=fixes.passes, budget=self.budget)

    def _prepared(self) -> tuple[StaticQuantize, Fixes, dict[Calibrator, float]]:
        """How the model is quantized statically: calibrator, fixes, and the error with each calibrator."""
        static, fixes = StaticQuantize(self.exclude, scheme=self.place.scheme), Fixes(self.model)
        if self.calibrator != "auto":
            static = replace(static, calibrator=self.calibrator)
        else:
            found = self._errors(static, self.model, FIRST_CALIBRATORS)
            static = replace(static, calibrator=least_error(found, static.calibrator))
        if self.ctx.data is not None:
            judged = replace(static, float_stem=True)
            fixes = choose_fixes(self.model, judged, self.ctx.data, self._judged, self.ctx, self._out_of_time)
            static = fixes.of(static)
        tried = dict[Calibrator, float]()
        if self.calibrator == "auto" and not self._out_of_time():
            tried = self._errors(static, fixes.model, CALIBRATORS)
            static = replace(static, calibrator=least_error(tried, static.calibrator))
        if self.rounding != "nearest" and self.ctx.data is not None:
            fixes = choose_rounding(fixes, static, self.ctx.data, self._judged, self.rounding, self.ctx)
            static = fixes.of(static)
        return static, fixes, tried

    @property
    def _judged(self) -> str | None:
        return self.scorer.output if self.scorer.is_chosen else None

    def _out_of_time(self) -> bool:
        return self.budget.spent(TIME_OF_FIXES) is not None

    def _errors(self, item: StaticQuantize, model: Model, calibrators: Sequence[Calibrator]) -> dict[Calibrator, float]:
        output = self.scorer.output
        return output_errors(item, model, self.reference, self.held_back, output, self.ctx, calibrators)

    def _static(self, item: StaticQuantize, fixes: Fixes) -> list[Candidate]:
        found = [self._try("static", item, fixes)]
        if stems(fixes.model):
            found.append(self._try("static, float stem", replace(item, float_stem=True), fixes))
        if self.mode != "auto" or not self.place.is_here or self.budget.spent(TIME_OF_FORMS) is not None:
            return found
        rewritten = self._rewritten(item, fixes)
        if rewritten is not None:
            found.append(self._try("static, rewritten", item, rewritten))
            fixes = rewritten if best(found) is found[-1] else fixes
        leader = best(found) or next((c for c in reversed(found) if c.model is not None), None)
        if leader is None or leader.model is None or not isinstance(leader.item, StaticQuantize):
            return found
        plain = float_profile(fixes.model, self.feeds, self.ctx)
        gaining = where_it_gains(fixes.model, leader.item, self.feeds, self.ctx, plain)
        if gaining is not None:
            found.append(self._try(f"{leader.name}, where it gains", gaining, fixes))
        mixed = self._mixed(leader.item, fixes, plain)
        if mixed is not None:
            found.append(self._try("mixed", mixed, fixes))
        return found

    def _rewritten(self, item: StaticQuantize, fixes: Fixes) -> Fixes | None:
        """The model with layers in forms that have integer kernels; ``None``: that puts no more layers on integers."""
        model, passes = fixes.model.clone(), list[Pass]()
        for name in REWRITES:
            rewrite = create(name)
            result = rewrite.run(model, self.ctx)
            model = result.model
            passes += [rewrite] if result.changes else []
        more = bool(passes) and len(planned(item, model)) > len(planned(item, fixes.model))
        return replace(fixes, model=model, passes=(*fixes.passes, *passes)) if more else None

    def _mixed(self, static: StaticQuantize, fixes: Fixes, plain: Profile) -> MixedQuantize | None:
        """Each layer in the form that was measured to gain more; ``None`` where one form for all is as good."""
        dynamic = DynamicQuantize(self.exclude, weight_range=static.weight_range)
        reached = planned(dynamic, fixes.model)
        if not reached or set(planned(static, fixes.model)) <= set(reached):
            return None
        ahead = gains(fixes.model, static, self.feeds, self.ctx, plain)
        late = gains(fixes.model, dynamic, self.feeds, self.ctx, plain)
        chosen = tuple(n for n in reached if late.get(n, 0.0) > max(ahead.get(n, 0.0), 0.0))
        losing = tuple(n for n, gain in ahead.items() if gain < 0 and n not in chosen)
        static_ms, dynamic_ms = (sum(max(gain, 0.0) for gain in part.values()) for part in (ahead, late))
        mixed_ms = sum(max(ahead.get(n, 0.0), late.get(n, 0.0) if n in chosen else 0.0, 0.0) for n in {*ahead, *late})
        if plain.total_ms - mixed_ms > WORTH_MIXING * (plain.total_ms - max(static_ms, dynamic_ms)):
            return None
        return MixedQuantize(with_float(static, losing), dynamic, chosen)

    def _dynamic(self, candidates: Sequence[Candidate], fixed: list[Fixes], *, has_data: bool) -> list[Candidate]:
        """The dynamic form, unless what it leaves float takes longer by itself than the leader."""
        item, leader = DynamicQuantize(self.exclude), best(candidates)
        if leader is not None and leader.latency is not None:
            shapes = observed_shapes(self.model, self.feeds[0], self.ctx.target, self.ctx.workdir)
            share = macs_share(self.model, shapes)
            if leader.latency.high < 1 - SLACK * share:
                why = f"it reaches {share:.1%} of the multiply-accumulates and cannot be as fast as {leader.name!r}"
                return [not_tried("dynamic", item, why, self.ctx)]
        fixes = Fixes(self.model)
        if has_data and self.ctx.data is not None:
            fixes = choose_fixes(self.model, item, self.ctx.data, self._judged, self.ctx, self._out_of_time)
            item = fixes.of(item)
            fixed.append(replace(fixes, notes=tuple(replace(n, node=f"dynamic: {n.node}") for n in fixes.notes)))
        return [self._try("dynamic", item, fixes)]

    def _rounded(self, candidates: Sequence[Candidate], fixed: list[Fixes]) -> list[Candidate]:
        """The static form that is worth restoring with its weights rounded by AdaRound, where that lowers its error."""
        static = [(c, c.item, c.base) for c in worth_restoring(candidates)]
        forms = [(c, i, base) for c, i, base in static if isinstance(i, StaticQuantize) and base is not None]
        if not forms or self.rounding != "nearest" or self.ctx.data is None or self.budget.spent() is not None:
            return []
        form, item, base = forms[-1]
        before = Fixes(base, form.fixes, item.correct_bias, item.weight_range)
        fixes = choose_rounding(before, item, self.ctx.data, self._judged, "adaround", self.ctx)
        fixed.append(fixes)
        if fixes.rounding == "nearest":
            return []
        return [self._try(f"{form.name}, adaround", fixes.of(item), fixes, late=True)]

    def _within_budget(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The inaccurate forms with their most sensitive layers in float, searched on half of the samples.

        The other half is left for the judgement, which is on all; where that fails, the search gets stricter.
        """
        if self.ctx.data is None or self.ctx.data.synthetic:
            return []
        half = self.held_back.take(range(0, len(self.held_back), 2))
        metric, output = self.scorer.metric.name, self.scorer.output
        few = [self.ctx.data[i].feeds for i in range(min(RANKED_ON, len(self.ctx.data)))]
        found: list[Candidate] = []
        for form in worth_restoring(candidates):
            if self.budget.spent() is not None or form.base is None or not is_quantizer(form.item):
                break
            scorer = Scorer(self.reference, half, self.ctx.target, metric=metric, output=output, seed=self.ctx.seed)
            fixes = Fixes(form.base, form.fixes)
            items = keep_within(form.base, form.item, scorer, self.max_drop, few, self.ctx, self.budget)
            for count, item in enumerate(items, 1):
                stricter = "" if count == 1 else f", {count}"
                found.append(self._try(f"{form.name}, sensitive layers float{stricter}", item, fixes, late=True))
                if found[-1].outcome != "inaccurate":
                    break
        return found


def worth_restoring(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The last inaccurate candidate of each form, unless a fast and accurate one has nearly as many integer layers."""
    leader = best(candidates)
    forms = {type(c.item): c for c in candidates if c.outcome == "inaccurate"}
    return [c for c in forms.values() if leader is None or c.changes > CLEARLY_MORE * leader.changes]
