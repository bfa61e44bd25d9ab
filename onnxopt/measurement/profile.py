"""Where the time of a model goes: the kernels ONNX Runtime runs, and the nodes of the file that they stand for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxopt.core.io import load, save_scratch
from onnxopt.core.progress import Progress, SilentProgress
from onnxopt.core.query import Model, label
from onnxopt.measurement.attribution import attribute
from onnxopt.measurement.env import settle_spinning
from onnxopt.measurement.job import Subject
from onnxopt.measurement.process import Laboratory, spread
from onnxopt.run.session import Feeds
from onnxopt.run.settings import read_settings, write_settings
from onnxopt.run.target import Target, provider

__all__ = ["NodeTime", "Profile", "profile"]

ASYNCHRONOUS = ("cuda", "tensorrt", "directml")
COARSE_MS = 0.005
"""Mean time of a kernel below which microseconds are too long a unit."""


@dataclass(frozen=True)
class NodeTime:
    """The time of one kernel.

    Attributes:
        nodes: Labels of the nodes of the file it stands for, the one that does the work first; empty: ONNX Runtime
            put it in.
        op: The operator that was executed (``QLinearConv``, ``FusedConv``, ``MatMulNBits``, ...).
        time_ms: Median over the runs.
        provider: Full name of the execution provider.
        name: Name of the executed node.
    """

    nodes: tuple[str, ...]
    op: str
    time_ms: float
    provider: str
    name: str


@dataclass(frozen=True)
class Profile:
    """Where the time of a model goes.

    Attributes:
        times: One entry a kernel, in the order of execution; a node with a body (If, Loop, Scan) includes it.
        runs: Runs that the medians are over.
        run_ms: Median time of a whole run while the profiler is at work, which takes time of its own.
        notes: What to know before reading it.
    """

    times: tuple[NodeTime, ...]
    runs: int
    run_ms: float
    notes: tuple[str, ...] = ()

    @property
    def total_ms(self) -> float:
        """The time of all kernels."""
        return sum(t.time_ms for t in self.times)

    @property
    def attributed_share(self) -> float:
        """The share of the time that is behind nodes of the file."""
        return sum(t.time_ms for t in self.times if t.nodes) / (self.total_ms or 1.0)

    @property
    def provider_shares(self) -> Mapping[str, float]:
        """Full name of each execution provider -> its share of the time, largest first."""
        sums: dict[str, float] = {}
        for t in self.times:
            sums[t.provider] = sums.get(t.provider, 0.0) + t.time_ms
        total = self.total_ms or 1.0
        return {name: ms / total for name, ms in sorted(sums.items(), key=lambda item: -item[1])}


def profile(
    path: Path,
    feeds: Sequence[Feeds],
    target: Target,
    *,
    runs: int = 20,
    progress: Progress | None = None,
) -> Profile:
    """The time of each kernel of a model, in a fresh process, with all graph optimizations.

    Args:
        path: Model file.
        feeds: Samples to run in turn; at most ``runs`` of them, evenly spaced.
        target: Where it runs.
        runs: Runs that count; fewer of a model that needs more than 6 seconds for them.
        progress: Told of the process.

    Raises:
        ModelError: The model cannot be loaded, or crashed its process.
        ProviderError: The provider cannot be used.
        DataError: There is no sample, or the model does not run on one.
    """
    model = load(path)
    with (
        tempfile.TemporaryDirectory(prefix="onnxopt-profile-") as folder,
        (progress or SilentProgress()).task(f"profiling {path.name}", 1) as advance,
    ):
        subject = Subject(str(_named(model, path, Path(folder)).resolve()), settle_spinning(target, paired=False))
        trace = Laboratory(Path(folder), spread(feeds, runs)).trace(subject, runs)
        optimized = None if trace.optimized is None else Path(trace.optimized)
        behind = attribute(model, trace.kernels, optimized)
        advance(1)
    times = tuple(
        NodeTime(labels, k.op, k.time_us / 1e3, k.provider, k.name)
        for labels, k in zip(behind, trace.kernels, strict=True)
    )
    notes = _notes(target, times, is_mapped=optimized is not None)
    return Profile(times, trace.runs, trace.run_us / 1e3, notes)


def _named(model: Model, path: Path, folder: Path) -> Path:
    """The file of the model, or one in ``folder`` where nodes without a name are called by their labels."""
    nameless = [node for node in model.graph if not node.name]
    if not nameless:
        return path
    for node in nameless:
        node.name = label(node)
    copy = folder / "model"
    copy.mkdir()
    save_scratch(model, copy / path.name)
    write_settings(copy / path.name, read_settings(path))
    return copy / path.name


def _notes(target: Target, times: Sequence[NodeTime], *, is_mapped: bool) -> tuple[str, ...]:
    notes: list[str] = []
    if sum(t.time_ms for t in times) < COARSE_MS * len(times):
        notes.append("most kernels take few microseconds, and ONNX Runtime counts whole ones: shares are rough")
    if not is_mapped:
        notes.append("ONNX Runtime cannot write the graph it runs here: nodes are found by name only")
    if provider(target.provider).short in ASYNCHRONOUS:
        notes.append("the kernels of this provider are timed as they are launched, not as they run on the device")
    return tuple(notes)
