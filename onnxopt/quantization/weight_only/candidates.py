"""The weight-only forms that are tried: from the smallest up, until one is within the budget and not slower."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from onnxopt.core.io import data_files, save_scratch
from onnxopt.core.query import Model
from onnxopt.core.report import Note
from onnxopt.data.dataset import Dataset
from onnxopt.errors import ModelError
from onnxopt.evaluate.compare import Scorer
from onnxopt.evaluate.yardstick import Yardstick
from onnxopt.passes.base import Context, Pass, PassResult
from onnxopt.quantization.search.budget import Budget
from onnxopt.quantization.search.candidates import Candidate, not_tried
from onnxopt.quantization.weight_only.blocks import Bits
from onnxopt.quantization.weight_only.weights import Algorithm, WeightQuantize

__all__ = ["WeightOptions", "weight_candidates"]

FORMS: tuple[tuple[Bits, int], ...] = ((4, 128), (4, 32), (8, 128))
"""Bits and block size, the smallest first. ONNX Runtime's kernels run blocks of 128 faster than shorter ones; at 8 bits
shorter ones gain nothing."""
SAMPLES = 32
WORTH = 0.995
"""A file that keeps more of its size than this is no smaller one."""
ALIKE_FROM = 8
"""From so many bits on the algorithms give the same outputs up to what rounding the activations adds."""


@dataclass(frozen=True)
class WeightOptions:
    """What the user decided.

    Attributes:
        algorithm: How codes are chosen; ``"auto"``: that of least output error on held-back samples.
        bits: Of a code; ``None``: 4, and 8 where 4 is not accurate enough or slower.
        block_size: Weights that share a scale; ``None``: 128, and 32 where that is not accurate enough.
    """

    algorithm: Algorithm | Literal["auto"] = "auto"
    bits: Bits | None = None
    block_size: int | None = None

    @property
    def forms(self) -> tuple[tuple[Bits, int], ...]:
        """Bits and block sizes to try, in this order."""
        wanted = [form for form in FORMS if self.bits in (None, form[0])]
        return tuple(dict.fromkeys((bits, self.block_size or size) for bits, size in wanted))


@dataclass(frozen=True)
class _Made:
    """A pass that has run already: gives what it made."""

    name: ClassVar[str] = WeightQuantize.name
    lossy: ClassVar[bool] = True

    item: WeightQuantize
    result: PassResult

    def run(self, model: Model, ctx: Context) -> PassResult:
        """The result; nothing is done."""
        del model, ctx
        return self.result


def weight_candidates(
    attempt: Callable[[str, Pass, Model], Candidate],
    model: Model,
    scorer: Scorer,
    held_back: Dataset,
    exclude: tuple[str, ...],
    options: WeightOptions,
    ctx: Context,
    budget: Budget,
) -> list[Candidate]:
    """The forms that were tried, the last one possibly good: smaller, within the budget, and faster or just as fast.

    A form that is accurate but slower is followed by one of more bits: their kernels are faster for several rows.

    Args:
        attempt: Builds, judges and measures a pass under a name.
        model: The cleaned-up float model; it is not changed.
        scorer: Knows the input model and the output that counts.
        held_back: Samples that choose the algorithm.
        exclude: Patterns of nodes that stay float.
        options: What the user decided.
        ctx: Calibration data, target, folder.
        budget: Ends the choice of an algorithm for a further form too, which takes longer than to judge it.
    """
    found: list[Candidate] = []
    slower: Bits | None = None
    for bits, block_size in options.forms:
        if bits == slower:
            continue  # shorter blocks are slower still
        item = WeightQuantize("rtn", bits, block_size, exclude=exclude)
        over = budget.spent() if budget.evals else None
        if over is not None:
            found.append(not_tried(f"weights, int{bits} in blocks of {block_size}", item, over, ctx))
            break
        items = [replace(item, algorithm=name) for name in _algorithms(options, bits, ctx)]
        made, notes = _least_error(items, model, scorer, held_back, ctx)
        candidate = attempt(f"weights, int{bits} in blocks of {block_size}, {made.item.algorithm}", made, model)
        candidate = replace(candidate, item=made.item, notes=(*candidate.notes, *notes))
        found.append(_with_size(candidate, scorer.reference))
        if found[-1].outcome in ("faster", "smaller", "unchanged"):
            break
        slower = bits if found[-1].outcome in ("not faster", "undecided") else None
    return found


def _algorithms(options: WeightOptions, bits: Bits, ctx: Context) -> Sequence[Algorithm]:
    if options.algorithm != "auto":
        return [options.algorithm]
    if bits >= ALIKE_FROM:
        return ["rtn"]
    has_data = ctx.data is not None and not ctx.data.synthetic
    return ["rtn", "hqq", "gptq"] if has_data else ["rtn", "hqq"]


def _least_error(
    items: Sequence[WeightQuantize], model: Model, scorer: Scorer, held_back: Dataset, ctx: Context
) -> tuple[_Made, tuple[Note, ...]]:
    """What the pass of least error at the judged output made, and the errors where there was a choice."""
    best = _Made(items[0], items[0].run(model.clone(), ctx))
    if len(items) == 1 or not best.result.changes:
        return best, ()
    errors: dict[Algorithm, float] = {}
    samples = held_back.take(range(min(SAMPLES, len(held_back))))
    exact = Yardstick(scorer.reference, samples, ctx.target, (scorer.output,))
    for item in items:
        made = best if item is items[0] else _Made(item, item.run(model.clone(), ctx))
        sqnr_db = _sqnr_db(made.result.model, exact, ctx)
        if sqnr_db is None:
            continue
        if sqnr_db > max(errors.values(), default=-math.inf):
            best = made
        errors[item.algorithm] = sqnr_db
    said = ", ".join(f"{name} {sqnr_db:.1f} dB" for name, sqnr_db in errors.items())
    return best, (Note(best.item.algorithm, "chosen", f"output error on held-back samples: {said}"),) if errors else ()


def _sqnr_db(made: Model, exact: Yardstick, ctx: Context) -> float | None:
    """SQNR at the judged output on some held-back samples; ``None``: it does not load, or holds no numbers."""
    path = ctx.workdir / "tryout.onnx"
    save_scratch(made, path)
    try:
        return exact.drift(path)[0].sqnr_db
    except ModelError:
        return None


def _with_size(candidate: Candidate, reference: Path) -> Candidate:
    """The candidate with its size in the reason, and judged by it: not slower is enough for what is smaller."""
    if candidate.latency is None or not candidate.path.exists():
        return candidate
    before, after = (sum(f.stat().st_size for f in data_files(path)) for path in (reference, candidate.path))
    reason = f"{after / before:.3g} of the size, {candidate.reason}"
    if after > WORTH * before:
        return replace(candidate, outcome="not smaller", reason=reason)
    if candidate.outcome == "not faster":
        if candidate.latency.decision == "same":
            return replace(candidate, outcome="smaller", reason=f"{reason}, not slower")
        return replace(candidate, reason=f"{reason}, slower")
    return replace(candidate, reason=reason)
