"""Does what ``onnxopt export`` writes compute what the framework does? One row a model, through the command line.

    python -m benchmarks.export [FAMILY ...] [--only NAME] [--python FAMILY=PATH] [--out FILE]

A family is a folder of ``benchmarks/exporters``: ``requirements.txt`` (``make exporters`` builds
``.venv-exporter-FAMILY`` from it), ``cases.py`` with ``CASES``, and optionally ``prepare.py``, which writes the files
that the cases name. Each case is exported in a fresh process, where the command compares it at batch 1, 2 and 8 and at
a second size of the other free axes. Rows of families and cases that are not asked for stay in the result.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.exporters.case import Case
from benchmarks.process import run
from onnxopt.measurement.env import environment
from onnxopt.run.target import Target

HERE = Path(__file__).parent
EXPORTERS = HERE / "exporters"
TIMEOUT_S = 3600.0
COLUMNS = ("family", "model", "exporter", "opset", "calls", "largest relative", "tolerance", "verdict", "wall s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Export all, print the table, write the results; 1 when a model is neither the same nor rightly refused."""
    families = sorted(path.parent.name for path in EXPORTERS.glob("*/cases.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export")
    parser.add_argument("families", nargs="*", default=families, metavar="FAMILY", help=", ".join(families))
    parser.add_argument("--only", action="append", metavar="NAME", help="this case; may be repeated")
    parser.add_argument("--python", action="append", default=[], metavar="FAMILY=PATH", help="instead of the venv's")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "export.json", help="default: %(default)s")
    options = parser.parse_args(arguments)
    pythons = dict(item.split("=", 1) for item in options.python)
    stored = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    known = {family: _cases(family) for family in families}
    rows = {(row["family"], row["model"]): row for row in stored if row["model"] in known.get(row["family"], ())}
    for family in options.families:
        python = pythons.get(family, str(HERE.parent / f".venv-exporter-{family}" / "bin" / "python"))
        chosen = [case for case in known[family].values() if not options.only or case.name in options.only]
        with tempfile.TemporaryDirectory() as folder:
            if (EXPORTERS / family / "prepare.py").exists():
                made = run([python, "-m", f"benchmarks.exporters.{family}.prepare", folder], HERE.parent, TIMEOUT_S)
                if made.exit_code:
                    raise SystemExit(f"{family}: the files cannot be prepared: {made.err[-2000:]}")
            for case in chosen:
                rows[family, case.name] = _row(family, case, python, Path(folder))
                document = {"environment": environment(Target(threads=1)), "rows": list(rows.values())}
                options.out.write_text(json.dumps(document, indent=1) + "\n")
    _print(list(rows.values()))
    return int(any(row["verdict"] not in ("same", "rightly refused") for row in rows.values()))


def _cases(family: str) -> dict[str, Case]:
    return {case.name: case for case in import_module(f"benchmarks.exporters.{family}.cases").CASES}


def _row(family: str, case: Case, python: str, folder: Path) -> dict[str, Any]:
    """One export: what the command says, and what the file holds."""
    out = folder / "out.onnx"
    command = [python, "-m", "onnxopt", "-q", "--json", "export", case.source.format(folder=folder), "-o", str(out)]
    ran = run([*command, *case.options, "--threads", "1"], HERE.parent, TIMEOUT_S)
    row: dict[str, Any] = {"family": family, "model": case.name, "options": list(case.options)}
    row |= {"exit_code": ran.exit_code, "wall_s": round(ran.wall_s, 1), "peak_rss_mb": round(ran.peak_rss_mb)}
    try:
        document = json.loads(ran.out)
    except ValueError:
        return row | {"verdict": "failed", "reason": ran.err[-500:]}
    if "error" in document:
        reason = document["error"]["what"]
        return row | {"verdict": _refusal(case, reason), "reason": reason}
    report, reason = document["data"], document["verdict"]["reason"]
    parity = [entry for entry in report["parity"] if entry["exporter"] == report["exporter"]]
    row |= {
        "exporter": report["exporter"],
        "opset": report["opset"],
        "versions": report["versions"],
        "calls": list(dict.fromkeys(entry["case"] for entry in parity)),
        "largest_relative": max((e["max_rel"] for e in parity if e["max_rel"] is not None), default=None),
        "tolerance": max((entry["tolerance"] for entry in parity), default=None),
        "failed_exporters": report["failed"],
        "reason": reason,
    }
    if ran.exit_code:
        return row | {"verdict": _refusal(case, reason)}
    model = onnx.load(out)
    row |= {"size_bytes": out.stat().st_size, "nodes": len(model.graph.node)}
    out.unlink()
    return row | {"verdict": "same"}


def _refusal(case: Case, reason: str) -> str:
    return "rightly refused" if case.refused is not None and case.refused in reason else "refused"


def _print(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(*COLUMNS, title="Framework against ONNX Runtime")
    for row in rows:
        largest = row.get("largest_relative")
        table.add_row(
            row["family"],
            row["model"],
            row.get("exporter", ""),
            str(row.get("opset", "")),
            "; ".join(row.get("calls", [])),
            "" if largest is None else f"{largest:.1e}",
            str(row.get("tolerance", "")),
            row["verdict"],
            str(row["wall_s"]),
        )
    Console(highlight=False, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    sys.exit(main())
