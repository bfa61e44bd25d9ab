"""Judges all models of a plan: rows of plain data, one entry of the zoo after the other."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.entry import Entry
from benchmarks.int8.making import kept, model_path
from benchmarks.int8.methods import Method
from benchmarks.judge import TARGET, Judge, Judgement
from benchmarks.made import Made, plain
from onnxopt.core.progress import Progress
from onnxopt.errors import OnnxoptError
from onnxopt.measurement.paired import compare_latency

PEER_PROCESSES = (3, 5)
"""The best peers are measured again, in pairs with onnxopt's model, with as many processes as it takes."""
NEAR = 0.02
"""Largest drop of a peer that counts as accurate when the fastest peer is looked for."""


@dataclass(frozen=True)
class Row:
    """One method on one model.

    Attributes:
        method: Which.
        made: What it did; `None` where it has not been run.
        judgement: `None` where there is no model, or none that runs.
        error: Why the model that there is cannot be judged.
        has_task: Whether there is accuracy to lose: the weights are not random.
    """

    method: Method
    made: Made | None
    judgement: Judgement | None
    error: str
    has_task: bool

    @property
    def verdict(self) -> str:
        """In a few words: what came of it."""
        if self.made is None:
            return "not made: python -m benchmarks.int8_peers make"
        if self.judgement is None:
            return f"{self.made.status}: {self.error or self.made.reason}"
        over = "" if self.judgement.comparison.is_within(self.method.max_drop) else f", drop > {self.method.max_drop:g}"
        return f"{self.judgement.latency.decision}{over}"

    @property
    def is_broken_promise(self) -> bool:
        """Whether onnxopt wrote a model that is slower than fp32 or outside its budget, or failed."""
        if self.method.peer is not None or self.made is None or self.made.status == "declined":
            return False
        if self.judgement is None:
            return True
        within = not self.has_task or self.judgement.comparison.is_within(self.method.max_drop)
        return not within or self.judgement.latency.decision == "slower"

    def as_json(self) -> dict[str, object]:
        """Return all that is known, without paths."""
        return {
            "method": self.method.name,
            "peer": self.method.peer,
            "max_drop": self.method.max_drop,
            "verdict": self.verdict,
            "broken_promise": self.is_broken_promise,
            "made": None if self.made is None else asdict(self.made),
            "judgement": None if self.judgement is None else self.judgement.as_json(),
        }


def judge_all(plan: Sequence[tuple[Entry, Method]], progress: Progress) -> list[dict[str, object]]:
    """Return, for each entry, what fp32 does against itself, a row for each method, and the direct pairs."""
    entries: list[dict[str, object]] = []
    with progress.task("judging models", len(plan)) as advance:
        for entry in dict.fromkeys(entry for entry, _ in plan):
            judge = Judge(entry)
            floor = judge.judge(entry.model)
            rows: list[Row] = []
            for method in (m for e, m in plan if e == entry):
                rows.append(_row(judge, entry, method))
                progress.note(f"{entry.id} {method.name}: {_line(rows[-1])}")
                advance(1)
            entries.append(
                {
                    "id": entry.id,
                    "metric": entry.metric,
                    "latency_inputs": {name: list(array.shape) for name, array in judge.feeds.items()},
                    "fp32": floor.as_json(),
                    "rows": [row.as_json() for row in rows],
                    "pairs": _pairs(judge, entry, rows, progress),
                }
            )
    return entries


def _row(judge: Judge, entry: Entry, method: Method) -> Row:
    made, path = kept(entry, method), model_path(entry, method)
    judgement, error = None, ""
    if made is not None and made.status == "written":
        try:
            judgement = judge.judge(path) if method.peer is None else judge.judge(path, PEER_PROCESSES)
        except OnnxoptError as failure:
            error = plain(str(failure), entry.model.parent, path.parent)
    return Row(method, made, judgement, error, entry.metric is not None)


def best_peers(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the most accurate peer, and the fastest of those within `NEAR` of fp32, under what they are best at.

    Equal scores: the one with less noise. Without a task (random weights) noise decides, and any peer may be fastest.
    """
    judged = [(row, row.judgement) for row in rows if row.method.peer is not None and row.judgement is not None]
    found: dict[str, Row] = {}
    if judged:
        found["most accurate"] = max(judged, key=lambda item: _accuracy(*item))[0]
    near = [item for item in judged if not item[0].has_task or item[1].comparison.drop <= NEAR]
    if near:
        found["fastest"] = min(near, key=lambda item: item[1].latency.ratio)[0]
    return found


def _accuracy(row: Row, judgement: Judgement) -> tuple[float, float]:
    noise = judgement.sqnr_db
    return -judgement.comparison.drop if row.has_task else 0.0, float("-inf") if noise is None else noise


def _pairs(judge: Judge, entry: Entry, rows: Sequence[Row], progress: Progress) -> list[dict[str, object]]:
    """Latency of each model of onnxopt against the best peers', in interleaved pairs."""
    pairs: list[dict[str, object]] = []
    for row in (row for row in rows if row.method.peer is None and row.judgement is not None):
        for role, peer in best_peers(rows).items():
            models = model_path(entry, peer.method), model_path(entry, row.method)
            found = compare_latency(*models, [judge.feeds], TARGET)
            said = f"{found.decision}, {1 / found.ratio:.2f}x as fast"
            progress.note(f"{entry.id} {row.method.name} against {peer.method.name} ({role}): {said}")
            pairs.append({"method": row.method.name, "peer": peer.method.name, "role": role, "latency": asdict(found)})
    return pairs


def _line(row: Row) -> str:
    if row.judgement is None:
        return row.verdict
    found, noise = row.judgement, row.judgement.sqnr_db
    decibel = "-" if noise is None else f"{noise:.1f} dB"
    return f"{found.comparison.candidate_score:.3f}, {decibel}, {1 / found.latency.ratio:.2f}x: {row.verdict}"
