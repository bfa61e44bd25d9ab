"""Lets each method make its model in a fresh process, once: kept under a key of all that the result follows from."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.methods import PEERS, ROOT, Entry, Method
from benchmarks.process import Ran, last_line, run
from onnxopt.run.settings import settings_path

CACHE = ROOT / "benchmarks" / ".cache" / "int8_peers"
ONNXOPT = (sys.executable, "-c", "from onnxopt.cli.main import main; main()")
LONGEST_S = 1800.0


@dataclass(frozen=True)
class Made:
    """What a way to INT8 did.

    Attributes:
        exit_code: Of its process.
        status: `"written"`, `"declined"` (exit 1, 4 or 5 of onnxopt: no model, for a reason) or `"error"`.
        reason: What onnxopt said of each candidate, or the error.
        wall_s: From start to end of the process; onnxopt's has judging and measuring in it, the peers only quantize.
        peak_rss_mb: Peak resident memory (MiB) of its processes together.
        details: The report of onnxopt without tables and notes, or the preparation of the peer.
        version: What is pinned for the peer; of onnxopt, what it runs on.
    """

    exit_code: int
    status: str
    reason: str
    wall_s: float
    peak_rss_mb: float
    details: dict[str, object]
    version: str


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


def recorded(path: Path, key: str) -> Made | None:
    """Return what is known of the model kept at `path`, if it was made under `key`."""
    written = path.with_suffix(".json")
    if not written.exists():
        return None
    document = json.loads(written.read_text())
    if document["key"] != key:
        return None
    made = Made(**document["made"])
    return made if made.status != "written" or path.exists() else None


def record(path: Path, key: str, work: Callable[[Path], Made]) -> Made:
    """Let `work` write a model; keep it at `path`, and beside it what there is to say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        output = Path(folder) / "model.onnx"
        made = work(output)
        path.unlink(missing_ok=True)
        if made.status == "written":
            output.rename(path)
            settings = settings_path(output)
            settings_path(path).unlink(missing_ok=True)
            if settings.exists():
                settings.rename(settings_path(path))
        written = Path(folder) / "made.json"
        written.write_text(json.dumps({"key": key, "made": asdict(made)}, indent=1) + "\n")
        written.rename(path.with_suffix(".json"))
    return made


def not_installed(peer: str, version: str) -> Made:
    """What is said of a peer without its environment; not kept, as it may be there the next time."""
    return Made(127, "error", f"not installed: make .venv-peer-{peer}/peer.stamp", 0.0, 0.0, {}, version)


def plain(text: str, *folders: Path) -> str:
    """Return `text` without the paths of these folders, of the repository and of the temporary folder."""
    for folder in (*folders, ROOT, Path(tempfile.gettempdir()), Path(sys.prefix)):
        text = text.replace(f"{folder}/", "").replace(str(folder), "")
    return text


def _onnxopt(method: Method, entry: Entry, output: Path) -> Made:
    metric = [] if entry.metric is None or not entry.has_calibration_labels else ["--metric", entry.metric]
    command = [*ONNXOPT, "quantize", str(entry.model), "-o", str(output), "--data", str(entry.calibration)]
    ran = run([*command, *metric, "--threads", "1", "--json", *method.options], ROOT, LONGEST_S)
    try:
        report = json.loads(ran.out)
    except json.JSONDecodeError:
        return failed(ran, plain(last_line(ran.err), entry.model.parent), method.version)
    if "error" in report:
        reason = plain(": ".join(map(str, report["error"].values())), entry.model.parent)
        return failed(ran, reason, method.version)
    reason = "; ".join(f"{c['name']} {c['outcome']}, {c['reason']}" for c in report["data"]["candidates"])
    status = "written" if output.exists() else "declined"
    details = {"verdict": report["verdict"], **report["data"]}
    return Made(ran.exit_code, status, reason, ran.wall_s, ran.peak_rss_mb, details, method.version)


def _peer(method: Method, entry: Entry, output: Path) -> Made:
    words = ["benchmarks.peers.run", str(method.peer), method.config, str(entry.model), str(entry.calibration)]
    return peer(method.python, [*words, str(output)], entry, output, method.version)


def peer(python: Path, words: Sequence[str], entry: Entry, output: Path, version: str) -> Made:
    """Run the module and arguments `words` in a peer's environment; it is to write `output`."""
    ran = run([str(python), "-m", *words], ROOT, LONGEST_S)
    if ran.exit_code == 0 and output.exists():
        try:
            details = json.loads(last_line(ran.out))
        except json.JSONDecodeError:  # the peer had the last word
            details = {}
        return Made(0, "written", "", ran.wall_s, ran.peak_rss_mb, details, version)
    return failed(ran, plain(last_line(ran.err), entry.model.parent), version)


def failed(ran: Ran, reason: str, version: str) -> Made:
    """What is said of a process without a result."""
    if ran.exit_code < 0:
        ended = f"longer than {LONGEST_S:g} s" if ran.wall_s >= LONGEST_S else f"ended by signal {-ran.exit_code}"
        reason = f"{ended} at {ran.peak_rss_mb:.0f} MB; {reason}"
    return Made(ran.exit_code, "error", reason, ran.wall_s, ran.peak_rss_mb, {}, version)


def _key(entry: Entry, method: Method) -> str:
    """Hex digest of the model, the data and what makes the result of them: the sources of onnxopt, or of the peer."""
    own = sorted((ROOT / "onnxopt").rglob("*.py"))
    files = own if method.peer is None else [*sorted(PEERS.glob("*.py")), *sorted((PEERS / method.peer).iterdir())]
    files = [file for file in files if file.is_file()]
    said = json.dumps([method.name, method.config, method.options, method.version, entry.metric])
    return hashlib.sha256(f"{digest((entry.model, entry.calibration))} {digest(files)} {said}".encode()).hexdigest()


def digest(paths: Iterable[Path]) -> str:
    """Hex digest of the files, and of those in the folders, of `paths`."""
    return _content(tuple(file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])))


@cache
def _content(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            for part in iter(lambda: stream.read(1 << 20), b""):
                digest.update(part)
    return digest.hexdigest()
