"""Pruning on the zoo: `onnxopt prune` as a user calls it, beside its peers, all judged by one judge in one run.

    python -m benchmarks.prune make [IDS...] [--methods NAME...] [--remake]
    python -m benchmarks.prune judge [IDS...] [--methods NAME...] [--out FILE]

`make`: each method prunes in a fresh process whose wall time and peak memory are kept, a peer in its own environment
(`make peers` builds them): to the same share of multiplications or parameters, with the same 256 unlabelled inputs,
nobody trains. `onnxopt prune --latency` is given one thread, as it is judged. What is made is kept in
`benchmarks/.cache/prune` until the model, the data, the peer's pins or the code change.

`judge`: the task's metric on the zoo's evaluation data, parameters, multiplications, and latency at batch 1 and one
thread in interleaved pairs against the input. Nothing else should run. Models that were judged before stay in FILE,
each with the environment that it was judged in. Exit code 1 when a goal is not reached.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.entry import Entry
from benchmarks.pruning.making import kept, make
from benchmarks.pruning.plan import TASKS, Method, read
from onnxopt.cli.progress import TerminalProgress

HERE = Path(__file__).parent

Plan = Sequence[tuple[Entry, Method]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or judge the models of the ids on the command line."""
    options = _options(arguments)
    entries = [read(options.zoo / name) for name in options.ids or TASKS]
    chosen = tuple(options.methods or [""])
    plan = [(entry, m) for entry in entries for m in TASKS[entry.id].methods if m.name.startswith(chosen)]
    progress = TerminalProgress(quiet=False)
    if options.step == "make":
        return _make(plan, options.remake, progress)
    return _judge(plan, options.out, progress)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prune", description="Pruning beside its peers.")
    parser.add_argument("step", choices=("make", "judge"))
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"folders of the zoo (default: {' '.join(TASKS)})")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only those whose name begins so")
    parser.add_argument("--remake", action="store_true", help="make what is kept again")
    parser.add_argument("--zoo", type=Path, default=HERE / ".cache" / "zoo", help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "prune.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    options.zoo = options.zoo.resolve()
    unknown = [name for name in options.ids if name not in TASKS]
    if unknown:
        parser.error(f"nothing is asked of {', '.join(unknown)}; choose from {', '.join(TASKS)}")
    absent = [name for name in options.ids or TASKS if not (options.zoo / name / "info.json").exists()]
    if absent:
        parser.error(f"not in the zoo: {', '.join(absent)}; build with python -m benchmarks.zoo.build")
    return options


def _make(plan: Plan, remake: bool, progress: TerminalProgress) -> int:
    with progress.task("pruning", len(plan)) as advance:
        for entry, method in plan:
            if remake or kept(entry, method) is None:
                made = make(entry, method)
                cost = f"exit {made.exit_code}, {made.wall_s:.1f} s, {made.peak_rss_mb:.0f} MB"
                progress.note(f"{entry.id} {method.name}: {made.status}, {cost}. {made.reason}")
            advance(1)
    return 0


def _judge(plan: Plan, out: Path, progress: TerminalProgress) -> int:
    from benchmarks.findings import joined, stored, write
    from benchmarks.pruning.goals import check_goals
    from benchmarks.pruning.judging import judge_all
    from benchmarks.pruning.table import report
    from onnxopt.measurement.env import environment
    from onnxopt.run.target import Target

    block = environment(Target(threads=1))  # before: it tells how busy the machine was at the start
    judged = judge_all(plan, progress)
    block["load_average_after"] = [round(load, 2) for load in os.getloadavg()]
    entries = stored(out)
    for entry in judged:
        rows = joined(entries.get(entry["id"]), entry, block)["rows"]
        order = [m.name for m in TASKS[entry["id"]].methods]
        rows = sorted((r for r in rows if r["method"] in order), key=lambda row: order.index(row["method"]))
        entries[entry["id"]] = {**entry, "rows": rows}
    document = write([entries[name] for name in TASKS if name in entries], out)
    print(report(document))
    return 0 if all(found.is_reached for *_, found in check_goals(document["entries"])) else 1


if __name__ == "__main__":
    sys.exit(main())
