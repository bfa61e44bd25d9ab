"""Whether providers really run a model: each is tried in a process of its own, so that a crash is an answer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from onnxopt.errors import OnnxoptError
from onnxopt.measurement.job import Effort, Subject
from onnxopt.measurement.process import Laboratory
from onnxopt.run.session import Feeds
from onnxopt.run.target import PROVIDERS, Provider, Target

__all__ = ["Trial", "installed_providers", "try_provider"]

ONCE = Effort(rounds=1, least_seconds=0, least_rounds=1, warm_up=False)


@dataclass(frozen=True)
class Trial:
    """What came of one provider and one model.

    Attributes:
        provider: Short name.
        runs: Whether the model loads and runs.
        load_ms: Time to create the session.
        first_run_ms: Time of the first run.
        fallback: Nodes that another provider runs, as ``"Op 'name' (provider)"``.
        reason: Why it does not run.
        fix: What to do then.
    """

    provider: str
    runs: bool
    load_ms: float | None = None
    first_run_ms: float | None = None
    fallback: tuple[str, ...] = ()
    reason: str = ""
    fix: str = ""


def installed_providers() -> tuple[Provider, ...]:
    """The providers, of those with a short name, that the installed ONNX Runtime was built with."""
    available = ort.get_available_providers()
    return tuple(p for p in PROVIDERS if p.name in available)


def try_provider(path: Path, feeds: Sequence[Feeds], target: Target) -> Trial:
    """One run of the model at ``path`` on ``target``, in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="onnxopt-trial-") as folder:
        try:
            laboratory = Laboratory(Path(folder), feeds[:1])
            timing = laboratory.run([Subject(str(path.resolve()), target)], ONCE, 0).timings[0]
        except OnnxoptError as error:
            return Trial(target.provider, False, reason=error.what, fix=error.fix)
    return Trial(target.provider, True, timing.load_ns / 1e6, timing.first_run_ns / 1e6, timing.fallback)
