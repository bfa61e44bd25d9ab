"""What is measured and promised: an execution provider, its options and a number of threads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from onnxopt.errors import UsageError, nearest

__all__ = ["PROVIDERS", "Provider", "Target", "all_cores", "allowed_cores", "cpu_flags", "provider"]


@dataclass(frozen=True)
class Provider:
    """An execution provider: the short name users type, ONNX Runtime's name, the package that brings it."""

    short: str
    name: str
    package: str


PROVIDERS = (
    Provider("cpu", "CPUExecutionProvider", "onnxruntime"),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu"),
    Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu"),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino"),
    Provider("directml", "DmlExecutionProvider", "onnxruntime-directml"),
    Provider("coreml", "CoreMLExecutionProvider", "onnxruntime (macOS)"),
    Provider("xnnpack", "XnnpackExecutionProvider", "onnxruntime built with XNNPACK"),
)


def provider(name: str) -> Provider:
    """The provider that a short or full name stands for, in any case.

    Raises:
        UsageError: There is none of that name.
    """
    for candidate in PROVIDERS:
        if name.lower() in (candidate.short, candidate.name.lower()):
            return candidate
    raise UsageError(
        f"unknown execution provider {name!r}",
        where="--provider",
        fix=nearest(name, [p.short for p in PROVIDERS]),
    )


@dataclass(frozen=True)
class Target:
    """Where a model is to run.

    Attributes:
        provider: Short name of the execution provider.
        threads: Intra-op threads.
        options: Provider options, as ONNX Runtime takes them.
        session_config: Session configuration entries (``session.*``), as ONNX Runtime takes them.
        allow_fallback: Accept nodes of a non-CPU session that run on the CPU.
    """

    provider: str = "cpu"
    threads: int = field(default_factory=lambda: allowed_cores())
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    session_config: Mapping[str, str] = field(default_factory=dict[str, str])
    allow_fallback: bool = False

    def __post_init__(self) -> None:
        provider(self.provider)
        if self.threads < 1:
            raise UsageError(
                f"{self.threads} threads cannot run a model", where="--threads", fix="give a number from 1 up"
            )


def all_cores(target: Target) -> Target:
    """The target with all cores that are allowed here: for what is computed but not measured."""
    return replace(target, threads=max(target.threads, allowed_cores()))


def allowed_cores() -> int:
    """Cores this process may use: the affinity mask, capped by the cgroup CPU quota (rounded down, at least 1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(cores, int(quota))) if quota is not None else cores


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs granted by the tightest cgroup quota above this process (v2 ``cpu.max``, v1 ``cpu.cfs_*``), if any."""
    quotas: list[float] = []
    for line in _lines(membership):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else root / "cpu"
        folder = base / path.strip("/")
        while True:
            quota = _quota_in(folder)
            if quota is not None:
                quotas.append(quota)
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent
    return min(quotas, default=None)


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction-set flags of this CPU as Linux names them (empty elsewhere)."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith(("flags", "Features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def _quota_in(folder: Path) -> float | None:
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:
        words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    if len(words) != 2 or words[0] == "max" or int(words[0]) <= 0:
        return None
    return int(words[0]) / int(words[1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
