"""INT8 on the zoo: `onnxopt quantize` as a user calls it, beside ONNX Runtime's own quantizer, judged by one judge.

    python -m benchmarks.int8 [ids...] [--zoo DIR] [--out FILE]

Each method makes its model in a fresh process (wall time and peak memory of that process; onnxopt's include its
accuracy judgement and its latency measurements, on one thread; the peers only quantize, on their default threads).
Then all models are judged in one run on one machine: task metric, drift, size, and latency against fp32 at batch 1 and
one thread, in interleaved pairs. The fp32 row is fp32 against itself, what the measurement shows of no difference.

Exit code 1 when a model that onnxopt wrote is slower than fp32 or drops by more than the budget it was given.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.quantizers import Entry, Made, Method, make, methods, plain, read_entry
from onnxopt.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from benchmarks.judge import Judgement

IDS = ("effnet", "minilm", "vad", "orient", "crepe", "digits")
HERE = Path(__file__).parent
FLOAT = Method("fp32")
COLUMNS = ("id", "method", "score", "drop", "SQNR dB", "speed-up (90 %)", "size", "wall s", "peak MB", "verdict")
PIPE_WIDTH = 190
"""Columns of the table in a file or a CI log."""


@dataclass(frozen=True)
class Row:
    """One method on one model; `made` is `None` for fp32 itself, `judgement` where there is no model to judge."""

    entry: Entry
    method: Method
    made: Made | None
    judgement: "Judgement | None"
    error: str = ""

    @property
    def verdict(self) -> str:
        """In a few words: what came of it."""
        if self.judgement is None:
            if self.made is not None and self.made.status == "declined":
                return f"declined: {self.made.reason}"
            return f"error: {self.error or (self.made.reason if self.made is not None else '')}"
        over = "" if self.judgement.comparison.is_within(self.method.max_drop) else f", drop > {self.method.max_drop:g}"
        return f"{self.judgement.latency.decision}{over}"

    @property
    def is_broken_promise(self) -> bool:
        """Whether onnxopt wrote a model that is slower than fp32 or outside its budget, or failed."""
        if self.made is None or self.method.peer is not None or self.made.status == "declined":
            return False
        if self.judgement is None:
            return True
        within = self.judgement.comparison.drop <= self.method.max_drop
        return not within or self.judgement.latency.decision == "slower"

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        made, found = self.made, self.judgement
        cost = ("", "") if made is None else (f"{made.wall_s:.1f}", f"{made.peak_rss_mb:.0f}")
        if found is None:
            return (self.entry.id, self.method.name, "-", "-", "-", "-", "-", *cost, self.verdict)
        accuracy, latency, sqnr = found.comparison, found.latency, found.sqnr_db
        bound = "" if accuracy.drop_bound is None else f" (< {accuracy.drop_bound:.3f})"
        return (
            self.entry.id,
            self.method.name,
            f"{accuracy.reference_score:.3f} -> {accuracy.candidate_score:.3f}",
            f"{accuracy.drop:+.4f}{bound}",
            "-" if sqnr is None else f"{sqnr:.1f}",
            f"{1 / latency.ratio:.2f} ({1 / latency.high:.2f} .. {1 / latency.low:.2f})",
            f"{found.size_share:.2f}",
            *cost,
            self.verdict,
        )

    def as_json(self) -> dict[str, object]:
        """Return all that is known, without paths."""
        made = None if self.made is None else {k: v for k, v in asdict(self.made).items() if k != "path"}
        return {
            "id": self.entry.id,
            "method": self.method.name,
            "max_drop": self.method.max_drop,
            "verdict": self.verdict,
            "broken_promise": self.is_broken_promise,
            "made": made,
            "judgement": None if self.judgement is None else self.judgement.as_json(),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make and judge the models of the ids on the command line, print the table, write the results."""
    options = _options(arguments)
    if options.peer is not None:
        return _peer(options.peer, *map(Path, options.ids))
    progress = TerminalProgress(quiet=False)
    entries = [read_entry(options.zoo / name) for name in options.ids or IDS]
    with tempfile.TemporaryDirectory(prefix="int8-") as folder:
        made = list(_make(entries, Path(folder), progress))
        from onnxopt.measurement.env import environment  # not before: children would be charged for this memory
        from onnxopt.run.target import Target

        block = {**environment(Target(threads=1)), "sympy": version("sympy")}
        rows, inputs = _judge(entries, made, progress)
        block["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    document = {"environment": block, "latency_inputs": inputs, "rows": [row.as_json() for row in rows]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(_finite(document), indent=1, allow_nan=False) + "\n")
    _print(rows)
    broken = [f"{row.entry.id} {row.method.name}: {row.verdict}" for row in rows if row.is_broken_promise]
    for line in broken:
        progress.note(f"broken promise: {line}")
    return 1 if broken else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description="INT8 on the zoo, beside its peers.")
    parser.add_argument("ids", nargs="*", help=f"folders of the zoo (default: {' '.join(IDS)})")
    parser.add_argument("--zoo", type=Path, default=HERE / ".cache" / "zoo", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "int8.json", help="default: %(default)s")
    parser.add_argument("--peer", choices=("static", "dynamic"), help="only make a peer's model: MODEL DATA OUT")
    options = parser.parse_args(arguments)
    if options.peer is not None and len(options.ids) != 3:
        parser.error("--peer takes MODEL DATA OUT")
    options.zoo = options.zoo.resolve()
    absent = [name for name in options.ids or IDS if not (options.zoo / name / "info.json").exists()]
    if options.peer is None and absent:
        parser.error(f"not in the zoo: {', '.join(absent)}; build with python -m benchmarks.zoo.build")
    return options


def _peer(kind: str, model: Path, data: Path, output: Path) -> int:
    from benchmarks.onnxruntime_peer import quantize

    try:
        done = quantize(kind, model, data, output)
    except Exception as error:  # a peer may raise anything; the parent reads the last line
        message = " ".join(str(error).split())[:300]
        print(f"{type(error).__name__}: {message}", file=sys.stderr)
        return 1
    print(json.dumps(done))
    return 0


def _make(entries: Sequence[Entry], folder: Path, progress: TerminalProgress) -> Iterator[tuple[Entry, Method, Made]]:
    plan = [(entry, method) for entry in entries for method in methods(entry)]
    with progress.task("making models", len(plan)) as advance:
        for index, (entry, method) in enumerate(plan):
            made = make(method, entry, folder / f"{index}.onnx")
            progress.note(f"{entry.id} {method.name}: {made.status} in {made.wall_s:.1f} s {made.reason}")
            advance(1)
            yield entry, method, made


def _judge(
    entries: Sequence[Entry], made: Sequence[tuple[Entry, Method, Made]], progress: TerminalProgress
) -> tuple[list[Row], dict[str, dict[str, list[int]]]]:
    """All rows, and the input shapes of each latency comparison."""
    from benchmarks.judge import Judge
    from onnxopt.errors import OnnxoptError

    rows: list[Row] = []
    inputs: dict[str, dict[str, list[int]]] = {}
    with progress.task("judging models", len(entries) + len(made)) as advance:
        for entry in entries:
            judge = Judge(entry)
            inputs[entry.id] = {name: list(array.shape) for name, array in judge.feeds.items()}
            rows.append(Row(entry, FLOAT, None, judge.judge(entry.model)))
            advance(1)
            for _, method, result in (item for item in made if item[0] == entry):
                judgement, error = None, ""
                try:
                    judgement = None if result.path is None else judge.judge(result.path)
                except OnnxoptError as failure:
                    error = plain(str(failure), entry.model.parent)
                rows.append(Row(entry, method, result, judgement, error))
                progress.note(" | ".join(rows[-1].cells()))
                advance(1)
    return rows, inputs


def _print(rows: Sequence[Row]) -> None:
    table = Table(*COLUMNS, title="INT8 against fp32, batch 1, one thread")
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.entry.id != row.entry.id:
            table.add_section()
        table.add_row(*row.cells())
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def _finite(value: object) -> object:
    """Infinite and undefined numbers become null, as JSON has none."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
