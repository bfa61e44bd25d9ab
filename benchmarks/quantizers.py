"""The ways to INT8 that are compared, each run in a fresh process: time, memory, exit code, and the model if any.

The parent must stay small: on Linux a child's peak memory starts at that of the process it was spawned from.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULT_DROP = 0.01
ONNXOPT = (sys.executable, "-c", "from onnxopt.cli.main import main; main()")


@dataclass(frozen=True)
class Entry:
    """A model of the zoo with its data and `info.json`."""

    id: str
    model: Path
    calibration: Path
    evaluation: Path
    metric: str | None


@dataclass(frozen=True)
class Method:
    """A way to INT8.

    Attributes:
        name: As the table calls it.
        max_drop: The budget: asked for of onnxopt, only compared with for the peers.
        peer: `"static"` or `"dynamic"` of onnxruntime.quantization; `None`: onnxopt.
        options: Options of `onnxopt quantize` beside model, data, metric and threads.
    """

    name: str
    max_drop: float = DEFAULT_DROP
    peer: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """What a way to INT8 did.

    Attributes:
        path: The model, `None` where none was written.
        exit_code: Of its process.
        status: `"written"`, `"declined"` (exit 1, 4 or 5 of onnxopt: no model, for a reason) or `"error"`.
        reason: What onnxopt said of each candidate, or the error.
        wall_s: From start to end of the process.
        peak_rss_mb: Peak resident memory (MiB) of the largest process of its tree.
        details: The report of onnxopt without tables and notes, or the preparation of the peer.
    """

    path: Path | None
    exit_code: int
    status: str
    reason: str
    wall_s: float
    peak_rss_mb: float
    details: dict[str, object]


PEERS = (Method("ORT static", peer="static"), Method("ORT dynamic", peer="dynamic"))


def read_entry(folder: Path) -> Entry:
    """Return the zoo entry in `folder`.

    Raises:
        FileNotFoundError: The folder or a part of it is not there.
    """
    info = json.loads((folder / "info.json").read_text())
    model, *data = folder / "model.onnx", _data(folder, "calib"), _data(folder, "eval")
    return Entry(folder.name, model, *data, metric=None if info["metric"] == "none" else info["metric"])


def methods(entry: Entry) -> tuple[Method, ...]:
    """Return the methods to compare on `entry`.

    On effnet the default budget may not be within reach (agreement on unlabelled photographs), so a wide one is
    asked for too.
    """
    wide = (Method("onnxopt --max-drop 0.15", 0.15, options=("--max-drop", "0.15")),) if entry.id == "effnet" else ()
    return (Method("onnxopt"), *wide, *PEERS)


def make(method: Method, entry: Entry, output: Path) -> Made:
    """Run `method` on `entry` in a fresh process that writes `output`."""
    return _onnxopt(method, entry, output) if method.peer is None else _peer(method.peer, entry, output)


def plain(text: str, *folders: Path) -> str:
    """Return `text` without the paths of these folders, of the repository and of the temporary folder."""
    for folder in (*folders, ROOT, Path(tempfile.gettempdir()), Path(sys.prefix)):
        text = text.replace(f"{folder}/", "").replace(str(folder), "")
    return text


def _onnxopt(method: Method, entry: Entry, output: Path) -> Made:
    data = ["--data", str(entry.calibration), "--eval-data", str(entry.evaluation)]
    metric = [] if entry.metric is None else ["--metric", entry.metric]
    command = [*ONNXOPT, "quantize", str(entry.model), "-o", str(output), *data, *metric, "--threads", "1", "--json"]
    code, wall_s, peak_mb, out, err = _run([*command, *method.options])
    try:
        report = json.loads(out)
    except json.JSONDecodeError:
        return Made(None, code, "error", plain(_last_line(err), entry.model.parent), wall_s, peak_mb, {})
    if "error" in report:
        reason = plain(": ".join(report["error"].values()), entry.model.parent)
        return Made(None, code, "error", reason, wall_s, peak_mb, {})
    path = output if output.exists() else None
    details = {"verdict": report["verdict"], **report["data"]}
    status = "declined" if path is None else "written"
    reason = "; ".join(f"{c['name']} {c['outcome']}, {c['reason']}" for c in report["data"]["candidates"])
    return Made(path, code, status, reason, wall_s, peak_mb, details)


def _peer(kind: str, entry: Entry, output: Path) -> Made:
    arguments = [str(entry.model), str(entry.calibration), str(output)]
    code, wall_s, peak_mb, out, err = _run([sys.executable, "-m", "benchmarks.int8", "--peer", kind, *arguments])
    if code == 0 and output.exists():
        return Made(output, code, "written", "", wall_s, peak_mb, json.loads(_last_line(out)))
    return Made(None, code, "error", plain(_last_line(err), entry.model.parent), wall_s, peak_mb, {})


def _run(command: Sequence[str]) -> tuple[int, float, float, str, str]:
    """Run a command in the repository; return exit code, seconds, peak MiB of its largest process, stdout, stderr."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return child.returncode, wall_s, usage.ru_maxrss / 1024, out.read(), err.read()


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def _data(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.npz", folder / name):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder.name} has no {name}.npz and no folder {name}")
