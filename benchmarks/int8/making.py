"""Lets each way to INT8 make its model in a fresh process, once."""

import hashlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.entry import PEERS, ROOT, Entry
from benchmarks.findings import Data
from benchmarks.int8.methods import Method
from benchmarks.made import LONGEST_S, Made, digest, not_installed, peer, record, recorded, reported
from benchmarks.process import last_line, run

CACHE = ROOT / "benchmarks" / ".cache" / "int8_peers"
ONNXOPT = (sys.executable, "-c", "from onnxopt.cli.main import main; main()")


def capped(entry: Entry) -> Entry:
    """Return `entry` with calibration data of at most as many samples as any method is given."""
    name = entry.calibration.name
    path = CACHE / entry.id / f"{digest([entry.calibration])[:12]}-{name}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / name
            found = run([sys.executable, "-m", "benchmarks.peers.feeds", str(entry.calibration), str(part)], ROOT, 600)
            if found.exit_code:
                raise RuntimeError(f"{entry.id}: {last_line(found.err)}")
            part.rename(path)
    return replace(entry, calibration=path)


def model_path(entry: Entry, method: Method) -> Path:
    """Return where the model of `method` lies."""
    return CACHE / entry.id / f"{method.name.replace(' ', '_')}.onnx"


def kept(entry: Entry, method: Method) -> Made | None:
    """Return what `method` did on `entry` (a capped one), or `None`: not made yet, or made from something else."""
    return recorded(model_path(entry, method), _key(entry, method))


def make(entry: Entry, method: Method) -> Made:
    """Run `method` on `entry` (a capped one) in a fresh process; keep the model and what there is to say."""
    if not method.python.exists():
        return not_installed(str(method.peer), method.version)
    work = _onnxopt if method.peer is None else _peer
    return record(model_path(entry, method), _key(entry, method), lambda output: work(method, entry, output))


def _onnxopt(method: Method, entry: Entry, output: Path) -> Made:
    metric = [] if entry.metric is None or not entry.has_calibration_labels else ["--metric", entry.metric]
    command = [*ONNXOPT, "quantize", str(entry.model), "-o", str(output), "--data", str(entry.calibration)]
    ran = run([*command, *metric, "--threads", "1", "--json", *method.options], ROOT, LONGEST_S)
    return reported(ran, entry, output, method.version, _candidates)


def _candidates(report: Data) -> str:
    return "; ".join(f"{c['name']} {c['outcome']}, {c['reason']}" for c in report["data"]["candidates"])


def _peer(method: Method, entry: Entry, output: Path) -> Made:
    words = ["benchmarks.peers.run", str(method.peer), method.config, str(entry.model), str(entry.calibration)]
    return peer(method.python, [*words, str(output)], entry, output, method.version)


def _key(entry: Entry, method: Method) -> str:
    """Hex digest of the model, the data and what makes the result of them: the sources of onnxopt, or of the peer."""
    sources = sorted((ROOT / "onnxopt").rglob("*.py"))
    files = sources if method.peer is None else [*sorted(PEERS.glob("*.py")), *sorted((PEERS / method.peer).iterdir())]
    files = [file for file in files if file.is_file()]
    said = json.dumps([method.name, method.config, method.options, method.version, entry.metric])
    return hashlib.sha256(f"{digest((entry.model, entry.calibration))} {digest(files)} {said}".encode()).hexdigest()
