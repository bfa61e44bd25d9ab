"""Lets each method prune in a fresh process, once."""

import hashlib
import json
from pathlib import Path

from benchmarks.entry import ROOT, Entry
from benchmarks.made import LONGEST_S, Made, digest, not_installed, peer, record, recorded, reported
from benchmarks.process import run
from benchmarks.pruning.plan import OWN, Method

CACHE = ROOT / "benchmarks" / ".cache" / "prune"
PRUNERS = ROOT / "benchmarks" / "pruners"


def model_path(entry: Entry, method: Method) -> Path:
    """Return where the model of `method` lies."""
    return CACHE / entry.id / f"{method.name.replace('--', '').replace(' ', '_')}.onnx"


def kept(entry: Entry, method: Method) -> Made | None:
    """Return what `method` did on `entry`, or `None`: not made yet, or made from something else."""
    return recorded(model_path(entry, method), _key(entry, method))


def make(entry: Entry, method: Method) -> Made:
    """Run `method` on `entry` in a fresh process; keep the model and what there is to say."""
    if not method.python.exists():
        return not_installed(str(method.peer), method.version)
    work = _onnxopt if method.peer is None else _peer
    return record(model_path(entry, method), _key(entry, method), lambda output: work(method, entry, output))


def _onnxopt(method: Method, entry: Entry, output: Path) -> Made:
    """As a user calls it; a model that misses its goal is kept too, so that what it does is known."""
    goal = [f"--{method.goal.kind}", f"{method.goal.ratio:g}", "--threads", "1", "--keep-failing", "--json"]
    paths = [str(entry.model), "-o", str(output), "--data", str(entry.calibration)]
    ran = run([str(method.python), "-m", "onnxopt", "prune", *paths, *goal], ROOT, LONGEST_S)
    return reported(ran, entry, output, method.version, lambda report: str(report["verdict"].get("reason", "")))


def _peer(method: Method, entry: Entry, output: Path) -> Made:
    goal = method.goal
    words = ["benchmarks.pruners.run", str(method.peer), method.config, goal.kind, f"{goal.ratio:g}"]
    words += [str(entry.model), str(entry.calibration), str(output)]
    return peer(method.python, words, entry, output, method.version)


def _key(entry: Entry, method: Method) -> str:
    """Hex digest of the model, the data and what makes the result of them: the sources of onnxopt, or of the peer."""
    files = sorted((ROOT / "onnxopt").rglob("*.py")) if method.peer in (None, OWN) else []
    if method.peer is not None:
        files += [PRUNERS / name for name in ("goals.py", "run.py", f"{method.peer}.py")]
    said = json.dumps([method.name, method.version])
    return hashlib.sha256(f"{digest((entry.model, entry.calibration))} {digest(files)} {said}".encode()).hexdigest()
