"""What a method made in a fresh process: run once, kept under a key of all that the result follows from."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from benchmarks.entry import ROOT, Entry
from benchmarks.findings import Data
from benchmarks.process import Ran, last_line, run
from onnxopt.run.settings import settings_path

LONGEST_S = 1800.0


@dataclass(frozen=True)
class Made:
    """What a method did.

    Attributes:
        exit_code: Of its process.
        status: `"written"`, `"declined"` (exit 1, 4 or 5 of onnxopt: no model, for a reason) or `"error"`.
        reason: Why onnxopt wrote what it wrote, or the error.
        wall_s: From start to end of the process; onnxopt's has judging and measuring in it, that of a peer has not.
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


def reported(ran: Ran, entry: Entry, output: Path, version: str, reason: Callable[[Data], str]) -> Made:
    """What a command of onnxopt did, by its report; `reason` finds in it why."""
    try:
        report = json.loads(ran.out)
    except json.JSONDecodeError:
        return _failed(ran, plain(last_line(ran.err), entry.model.parent), version)
    if "error" in report:
        return _failed(ran, plain(": ".join(map(str, report["error"].values())), entry.model.parent), version)
    status = "written" if output.exists() else "declined"
    details = {"verdict": report["verdict"], **report["data"]}
    return Made(ran.exit_code, status, reason(report), ran.wall_s, ran.peak_rss_mb, details, version)


def peer(python: Path, words: Sequence[str], entry: Entry, output: Path, version: str) -> Made:
    """Run the module and arguments `words` in a peer's environment; it is to write `output`."""
    ran = run([str(python), "-m", *words], ROOT, LONGEST_S)
    if ran.exit_code == 0 and output.exists():
        try:
            details = json.loads(last_line(ran.out))
        except json.JSONDecodeError:  # the peer had the last word
            details = {}
        return Made(0, "written", "", ran.wall_s, ran.peak_rss_mb, details, version)
    return _failed(ran, plain(last_line(ran.err), entry.model.parent), version)


def _failed(ran: Ran, reason: str, version: str) -> Made:
    """What is said of a process without a result."""
    if ran.exit_code < 0:
        ended = f"longer than {LONGEST_S:g} s" if ran.wall_s >= LONGEST_S else f"ended by signal {-ran.exit_code}"
        reason = f"{ended} at {ran.peak_rss_mb:.0f} MB; {reason}"
    return Made(ran.exit_code, "error", reason, ran.wall_s, ran.peak_rss_mb, {}, version)


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
