"""What a gate measures, each thing once and only when a limit asks for it, and the checks that follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnxopt.commands.baseline import StoredBaseline
from onnxopt.commands.checks import Check
from onnxopt.commands.common import accuracy_table, as_json, drift_table, latency_table
from onnxopt.commands.limits import Limits
from onnxopt.core.io import data_files
from onnxopt.core.progress import Progress
from onnxopt.core.report import JSON, Note, Status, Table
from onnxopt.data.dataset import Dataset
from onnxopt.evaluate.compare import Comparison, compare_models
from onnxopt.evaluate.tally import ROUNDING
from onnxopt.measurement.anchor import Anchor, compare_with_anchor, measure_noise
from onnxopt.measurement.measure import Measurement, measure
from onnxopt.measurement.paired import compare_latency
from onnxopt.measurement.start import Start, measure_starts
from onnxopt.measurement.stats import Estimate, estimate, is_quantile_below
from onnxopt.run.session import Feeds
from onnxopt.run.target import Target

__all__ = ["Evidence"]

TAIL_RUNS = 2000
"""Enough that a 99th percentile well below its limit is shown to be so."""


@dataclass
class Evidence:
    """Measures for one gate; mutable because each measurement is kept for the checks that share it.

    Attributes:
        candidate: The model in question.
        reference: The reference model, where there is one.
        stored: The stored baseline, where that is what was given.
        data: The samples.
        feeds: The first of them.
        target: Where the models run.
        limits: What to check.
        metric: Name of the metric.
        output: Name of the output that the metric judges.
        seed: Seed of all random choices.
        progress: Told of each step.
        measured: Everything that was measured, for the report.
        tables: The same for people.
        notes: What the reader should know.
    """

    candidate: Path
    reference: Path | None
    stored: StoredBaseline | None
    data: Dataset
    feeds: Sequence[Feeds]
    target: Target
    limits: Limits
    metric: str | None
    output: str | None
    seed: int
    progress: Progress | None
    measured: dict[str, JSON] = field(default_factory=dict[str, JSON])
    tables: list[Table] = field(default_factory=list[Table])
    notes: list[Note] = field(default_factory=list[Note])
    _anchor: Anchor | None = None
    _measurement: Measurement | None = None
    _comparison: Comparison | None = None
    _starts: dict[Path, tuple[Start, ...]] = field(default_factory=dict[Path, tuple[Start, ...]])

    def checks(self) -> list[Check]:
        """One check for each limit that is set, cheap ones first."""
        ways: dict[str, Callable[[float], Check]] = {
            "size_mb": self._size,
            "drop": self._drop,
            "sqnr_db": self._drift,
            "memory_ratio": self._memory,
            "cold_start_ms": self._cold_start,
            "latency_ratio": self._latency,
            "p50_ms": lambda limit: self._tail(50, limit),
            "p99_ms": lambda limit: self._tail(99, limit),
        }
        given = self.limits.given()
        return [way(given[name]) for name, way in ways.items() if name in given]

    def noise_floor(self) -> JSON:
        """The ratio of a model to itself on this machine now; ``None`` where no latency was compared."""
        if self._anchor is None:
            return None
        found = self._anchor.noise
        text = f"{found.ratio:.3f} ({found.low:.3f} .. {found.high:.3f}) over {len(self._anchor.to_self)} processes"
        self.notes.append(Note("noise floor", "note", f"a model against itself has the latency ratio {text}"))
        return {
            "processes": len(self._anchor.to_self),
            "spread": self._anchor.spread,
            "ratio": found.ratio,
            "low": found.low,
            "high": found.high,
            "process_log_ratios": list(self._anchor.to_self),
        }

    def _latency(self, limit: float) -> Check:
        if self.reference is None and self.stored is not None:
            standing = compare_with_anchor(
                self.candidate,
                self.feeds,
                self.target,
                self.stored.anchor,
                limit=limit,
                seed=self.seed,
                progress=self.progress,
            )
            self._anchor = standing.anchor
            self.measured["latency"] = as_json(standing)
            return _ratio_check(standing.found, standing.holds, limit, len(standing.anchor.to_self), self.stored.file)
        reference = self._given_reference()
        self._anchor = measure_noise(reference, self.feeds, self.target, seed=self.seed, progress=self.progress)
        found = compare_latency(
            reference, self.candidate, self.feeds, self.target, limit=limit, seed=self.seed, progress=self.progress
        )
        self.measured["latency"] = as_json(found)
        self.tables.append(latency_table({self.candidate.name: found}, f"Against {reference.name}, in pairs"))
        interval = Estimate(found.ratio, found.median_ratio, found.low, found.high, found.mde)
        return _ratio_check(interval, found.holds, limit, found.processes, reference.name)

    def _tail(self, q: int, limit: float) -> Check:
        found = self._measure()
        below = is_quantile_below(found.times_ms, q, limit)
        value = found.p50_ms if q == 50 else found.p99_ms
        above = sum(t >= limit for t in found.times_ms)
        text = f"{above} of {found.n} runs took {limit:g} ms or longer, a p{q} below it allows {100 - q} %"
        return Check(f"p{q}", _status(below), value, None, None, limit, "ms", text)

    def _drop(self, limit: float) -> Check:
        found = self._compare()
        name, bound = "accuracy drop", found.drop_bound
        if all(d.share_equal == 1 and not d.resized for d in found.drift):
            return Check(name, Status.PASS, 0.0, None, None, limit, "", "all outputs are equal on these data")
        text = f"{found.metric} {found.candidate_score:.4g} against {found.reference_score:.4g}, drop {found.drop:.4g}"
        if not found.is_within(limit):
            return Check(name, Status.FAIL, found.drop, None, bound, limit, "", f"{text}, limit {limit:g}")
        if bound is None:
            return Check(name, Status.PASS, found.drop, None, None, limit, "", f"{text} (no bound for this metric)")
        text += f", at most {bound:.4g} with 95 % confidence, limit {limit:g}"
        if bound <= limit + ROUNDING:
            return Check(name, Status.PASS, found.drop, None, bound, limit, "", text)
        text += f": more than {found.samples} samples are needed to decide"
        return Check(name, Status.INCONCLUSIVE, found.drop, None, bound, limit, "", text)

    def _drift(self, limit: float) -> Check:
        found = self._compare()
        drift = [d for d in found.drift if self.output is None or d.name == self.output]
        worst = min(drift, key=lambda d: math.inf if d.sqnr_db is None else d.sqnr_db)
        value = math.inf if worst.sqnr_db is None else worst.sqnr_db
        text = f"output {worst.name!r} has {value:.4g} dB, at least {limit:g} dB are asked for"
        return Check("SQNR", _status(value >= limit), value, None, None, limit, "dB", text)

    def _size(self, limit: float) -> Check:
        size = sum(file.stat().st_size for file in data_files(self.candidate)) / 1e6
        return Check(
            "size", _status(size <= limit), size, None, None, limit, "MB", f"{size:.4g} MB on disk, limit {limit:g} MB"
        )

    def _memory(self, limit: float) -> Check:
        if self.reference is None and self.stored is not None:
            own, other = self._measure().peak_rss_mb, self.stored.peak_rss_mb
        else:
            own, other = (_peak(self._start(path)) for path in (self.candidate, self._given_reference()))
        if own is None or other is None:
            text = "this system does not tell the peak memory of a process"
            return Check("memory ratio", Status.INCONCLUSIVE, None, None, None, limit, "", text)
        ratio = own / other
        text = f"peak memory {own:.4g} MiB against {other:.4g} MiB, ratio {ratio:.3f}, limit {limit:g}"
        return Check("memory ratio", _status(ratio <= limit), ratio, None, None, limit, "", text)

    def _cold_start(self, limit: float) -> Check:
        starts = self._start(self.candidate)
        found = estimate([math.log(s.cold_start_ms) for s in starts])
        text = (
            f"cold start (creation and first run) {found.ratio:.4g} ms, {found.low:.4g} .. {found.high:.4g} ms "
            f"over {len(starts)} processes, limit {limit:g} ms"
        )
        below = True if found.high < limit else False if found.low >= limit else None
        return Check("cold start", _status(below), found.ratio, found.low, found.high, limit, "ms", text)

    def _given_reference(self) -> Path:
        if self.reference is None:
            raise ValueError("this limit needs the reference model; the gate refuses it against stored figures")
        return self.reference

    def _measure(self) -> Measurement:
        if self._measurement is None:
            self._measurement = measure(
                self.candidate, self.feeds, self.target, runs=TAIL_RUNS, seed=self.seed, progress=self.progress
            )
            self.measured["candidate"] = as_json(replace(self._measurement, times_ms=()))
        return self._measurement

    def _compare(self) -> Comparison:
        if self._comparison is None:
            self._comparison = compare_models(
                self._given_reference(),
                self.candidate,
                self.data,
                self.target,
                metric=self.metric,
                output=self.output,
                seed=self.seed,
                progress=self.progress,
            )
            self.measured["accuracy"] = as_json(self._comparison)
            self.tables += [accuracy_table(self._comparison), drift_table(self._comparison)]
        return self._comparison

    def _start(self, path: Path) -> tuple[Start, ...]:
        if path not in self._starts:
            self._starts[path] = measure_starts(path, self.feeds, self.target, seed=self.seed, progress=self.progress)
            kind = "candidate" if path == self.candidate else "reference"
            self.measured[f"starts of the {kind}"] = [as_json(start) for start in self._starts[path]]
        return self._starts[path]


def _ratio_check(found: Estimate, holds: bool | None, limit: float, processes: int, reference: str) -> Check:
    text = (
        f"latency ratio to {reference} {found.ratio:.3f} ({found.low:.3f} .. {found.high:.3f}, {processes} processes), "
        f"limit {limit:g}"
    )
    if holds is False and found.low <= limit:
        text += f" cannot be ruled out, and {found.low:.3f} is certain"
    if holds is None:
        text += f": too noisy here, a change below {100 * found.mde:.1f} % cannot be told"
    return Check("latency ratio", _status(holds), found.ratio, found.low, found.high, limit, "", text)


def _status(holds: bool | None) -> Status:
    return Status.INCONCLUSIVE if holds is None else Status.PASS if holds else Status.FAIL


def _peak(starts: Sequence[Start]) -> float | None:
    return max((s.peak_rss_mb for s in starts if s.peak_rss_mb is not None), default=None)
