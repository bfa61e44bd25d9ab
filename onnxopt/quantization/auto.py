"""The forms of a model that are tried: what is fixed first, how ranges are chosen, which layers stay float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from onnxopt.core.query import Model
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.compare import Scorer
from onnxopt.passes.base import Context, Pass
from onnxopt.quantization.calibrators import Calibrator
from onnxopt.quantization.dynamic import DynamicQuantize, macs_share
from onnxopt.quantization.fixes import Fixes, choose_fixes, choose_rounding
from onnxopt.quantization.gains import where_it_gains
from onnxopt.quantization.restore import RANKED_ON, keep_within
from onnxopt.quantization.rounding import Rounding
from onnxopt.quantization.search import Candidate, best, try_candidate
from onnxopt.quantization.select import stems
from onnxopt.quantization.static import StaticQuantize
from onnxopt.quantization.tryout import least_error, output_errors
from onnxopt.run.session import Feeds
from onnxopt.run.tap import observed_shapes

__all__ = ["Attempts", "Mode", "Search"]

Mode: TypeAlias = Literal["auto", "static", "dynamic"]

SLACK = 4.0
"""A multiply-accumulate of a memory-bound layer is taken to cost at most this many times the average one."""


@dataclass(frozen=True, eq=False)
class Attempts:
    """What was tried.

    Attributes:
        candidates: In the order in which they were tried.
        fixes: What was applied to the float model ahead of static quantization.
        calibrators: Output error in dB with each calibrator, where they were compared.
    """

    candidates: tuple[Candidate, ...]
    fixes: Fixes
    calibrators: Mapping[Calibrator, float] = field(default_factory=dict[Calibrator, float])


@dataclass(frozen=True)
class Search:
    """Tries the forms that the mode allows, each judged and measured against the input model.

    Attributes:
        model: The cleaned-up float model; it is not changed.
        reference: File of the input model.
        mode: ``"static"``, ``"dynamic"``, or ``"auto"``.
        exclude: Patterns of nodes that stay float.
        calibrator: How ranges follow from the data; ``"auto"``: that of least output error.
        rounding: How weights are rounded, where that lowers the error.
        max_drop: Largest drop of the metric.
        scorer: Judges accuracy on all held-back samples.
        held_back: These samples.
        feeds: Inputs to verify and to measure on.
        ctx: Calibration data, target, folder.
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

    def run(self) -> Attempts:
        """All attempts: static, static where it gains, static with a float stem, dynamic, sensitive layers in float."""
        candidates: list[Candidate] = []
        fixes, tried = Fixes(self.model), dict[Calibrator, float]()
        has_data = self.ctx.data is not None and not self.ctx.data.synthetic
        if self.mode == "static" or (self.mode == "auto" and has_data):
            static = StaticQuantize(self.exclude)
            judged = self.scorer.output if self.scorer.is_chosen else None
            if self.mode == "auto" and self.ctx.data is not None:
                fixes = choose_fixes(self.model, replace(static, float_stem=True), self.ctx.data, judged, self.ctx)
                static = fixes.of(static)
            if self.calibrator == "auto":
                output = self.scorer.output
                tried = output_errors(static, fixes.model, self.reference, self.held_back, output, self.ctx)
                static = replace(static, calibrator=least_error(tried, static.calibrator))
            else:
                static = replace(static, calibrator=self.calibrator)
            if self.rounding != "nearest" and self.ctx.data is not None:
                fixes = choose_rounding(fixes, static, self.ctx.data, judged, self.rounding, self.ctx)
                static = fixes.of(static)
            candidates += self._static(static, fixes.model)
        if self.mode != "static":
            candidates.append(self._dynamic(best(candidates)))
        if self.mode == "auto":
            candidates += self._within_budget(candidates, fixes.model)
        return Attempts(tuple(candidates), fixes, tried)

    def _try(self, name: str, item: Pass, model: Model) -> Candidate:
        return try_candidate(name, item, model, self.reference, self.scorer, self.feeds, self.max_drop, self.ctx)

    def _static(self, item: StaticQuantize, model: Model) -> list[Candidate]:
        found = [self._try("static", item, model)]
        quantized = found[0].model
        if self.mode == "auto" and quantized is not None:
            gaining = where_it_gains(model, item, quantized, self.feeds, self.ctx)
            if gaining is not None:
                found.append(self._try("static, where it gains", gaining, model))
        if stems(model):
            found.append(self._try("static, float stem", replace(item, float_stem=True), model))
        return found

    def _dynamic(self, leader: Candidate | None) -> Candidate:
        """The dynamic form, unless what it leaves float takes longer by itself than the leader."""
        item = DynamicQuantize(self.exclude)
        if leader is not None and leader.latency is not None:
            shapes = observed_shapes(self.model, self.feeds[0], self.ctx.target, self.ctx.workdir)
            share = macs_share(self.model, shapes)
            if leader.latency.high < 1 - SLACK * share:
                why = f"it reaches {share:.1%} of the multiply-accumulates and cannot be as fast as {leader.name!r}"
                return Candidate("dynamic", item, None, self.ctx.workdir / "dynamic", 0, "not tried", why)
        return self._try("dynamic", item, self.model)

    def _within_budget(self, candidates: Sequence[Candidate], model: Model) -> list[Candidate]:
        """The last inaccurate static form with its most sensitive layers in float, searched on half of the samples.

        The other half is left for the judgement, which is on all; where that fails, the search gets stricter.
        """
        forms = [(c, c.item) for c in candidates if isinstance(c.item, StaticQuantize) and not c.item.float_stem]
        if not forms or forms[-1][0].outcome != "inaccurate" or self.ctx.data is None:
            return []
        half = self.held_back.take(range(0, len(self.held_back), 2))
        judge = Scorer(
            self.reference,
            half,
            self.ctx.target,
            metric=self.scorer.metric.name,
            output=self.scorer.output,
            seed=self.ctx.seed,
        )
        few = [self.ctx.data[i].feeds for i in range(min(RANKED_ON, len(self.ctx.data)))]
        found: list[Candidate] = []
        for item in keep_within(model, forms[-1][1], judge, self.max_drop, few, self.ctx):
            stricter = "" if not found else f", {len(found) + 1}"
            found.append(self._try(f"static, sensitive layers float{stricter}", item, model))
            if found[-1].outcome != "inaccurate":
                break
        return found
