"""INT8 on the zoo: `onnxopt quantize` as a user calls it, beside its peers, all judged by one judge in one run.

    python -m benchmarks.int8_peers make [IDS...] [--methods NAME...] [--remake]
    python -m benchmarks.int8_peers judge [IDS...] [--methods NAME...] [--out FILE]

`make`: each method makes its model in a fresh process, a peer in its own environment (`make peers` builds them), all
from the same calibration data (at most 128 samples; onnxopt judges its candidates on a part of them, and sees no
evaluation data). What is made is kept in `benchmarks/.cache/int8_peers` until the model, the data, the peer's pins or
the code change.

`judge`: the task's metric on the zoo's evaluation data, drift, size, and latency at batch 1 and one thread in
interleaved pairs: against fp32, and of onnxopt directly against the best peers. Nothing else should run. Models that
were judged before stay in FILE, each with the environment that it was judged in.
Exit code 1 when a model that onnxopt wrote is slower than fp32 or drops by more than the budget it was given.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.entry import Entry, read_entry
from benchmarks.int8.making import capped, kept, make
from benchmarks.int8.methods import IDS, Method, methods
from onnxopt.cli.progress import TerminalProgress

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or judge the models of the ids on the command line."""
    options = _options(arguments)
    entries = [read_entry(options.zoo / name) for name in options.ids or IDS]
    plan = [(capped(entry), method) for entry in entries for method in _chosen(entry, options.methods)]
    progress = TerminalProgress(quiet=False)
    if options.step == "make":
        for _ in _make(plan, options.remake, progress):
            pass
        return 0
    return _judge(plan, options.out, progress)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8_peers", description="INT8 beside its peers.")
    parser.add_argument("step", choices=("make", "judge"))
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"folders of the zoo (default: {' '.join(IDS)})")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only those whose name begins so")
    parser.add_argument("--remake", action="store_true", help="make what is kept again")
    parser.add_argument("--zoo", type=Path, default=HERE / ".cache" / "zoo", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "int8_peers.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    options.zoo = options.zoo.resolve()
    absent = [name for name in options.ids or IDS if not (options.zoo / name / "info.json").exists()]
    if absent:
        parser.error(f"not in the zoo: {', '.join(absent)}; build with python -m benchmarks.zoo.build")
    return options


def _chosen(entry: Entry, names: Sequence[str] | None) -> list[Method]:
    return [m for m in methods(entry) if names is None or m.name.startswith(tuple(names))]


def _make(plan: Sequence[tuple[Entry, Method]], remake: bool, progress: TerminalProgress) -> Iterator[None]:
    with progress.task("making models", len(plan)) as advance:
        for entry, method in plan:
            if remake or kept(entry, method) is None:
                made = make(entry, method)
                cost = f"{made.wall_s:.1f} s, {made.peak_rss_mb:.0f} MB"
                progress.note(f"{entry.id} {method.name}: {made.status} in {cost} {made.reason}")
            advance(1)
            yield


def _judge(plan: Sequence[tuple[Entry, Method]], out: Path, progress: TerminalProgress) -> int:
    from benchmarks.findings import joined, stored, write
    from benchmarks.int8.judging import judge_all
    from benchmarks.int8.table import report
    from onnxopt.measurement.env import environment
    from onnxopt.run.target import Target

    block = environment(Target(threads=1))  # before: it tells how busy the machine was at the start
    entries = judge_all(plan, progress)
    block["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    merged = stored(out)
    merged |= {e["id"]: joined(merged.get(e["id"]), {**e, "environment": block}, block) for e in entries}
    print(report(write([merged[name] for name in IDS if name in merged], out)))
    broken = [f"{e['id']} {row['method']}" for e in entries for row in e["rows"] if row["broken_promise"]]
    for line in broken:
        progress.note(f"broken promise: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
