"""The machine as far as it decides latencies; nothing in it names the host, the user, a path or the time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime as ort

from onnxopt.core.report import JSON
from onnxopt.run.target import Target, allowed_cores, cgroup_quota, cpu_flags, provider

__all__ = [
    "busy_share",
    "environment",
    "is_spinning",
    "machine_differences",
    "relevant_isa",
    "settle_spinning",
]

ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm")
FINGERPRINT = (
    "cpu",
    "isa",
    "cores_allowed",
    "cgroup_quota",
    "governor",
    "os",
    "machine",
    "onnxruntime",
    "provider",
    "threads",
)
"""What must be equal for latencies to be comparable at all."""
SPINNING = "session.intra_op.allow_spinning"
STOP_SPINNING = "session.force_spinning_stop"
SHARED_LOAD = 0.5
"""Share of the allowed cores in use by others above which the machine counts as shared."""
LOOK_SECONDS = 0.2


def environment(target: Target) -> dict[str, JSON]:
    """The environment block of a result measured on ``target``.

    Keys: ``cpu``, ``isa``, ``cores_visible``, ``cores_allowed``, ``cgroup_quota`` (CPUs), ``governor``,
    ``load_average`` (1, 5, 15 min), ``memory_mb``, ``os``, ``kernel``, ``machine``, the versions of ``python``,
    ``onnxruntime``, ``onnx`` and ``numpy``, ``providers`` (available), ``provider``, ``threads``, ``spinning``.
    ``None``: the system does not tell.
    """
    visible = os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "isa": list(relevant_isa()),
        "cores_visible": visible,
        "cores_allowed": allowed_cores(),
        "cgroup_quota": cgroup_quota(),
        "governor": next(_lines("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"), None),
        "load_average": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "memory_mb": _memory_mb(),
        "os": platform.system(),
        "kernel": platform.release().split("-")[0],
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "onnx": _version("onnx"),
        "numpy": _version("numpy"),
        "providers": list(ort.get_available_providers()),
        "provider": provider(target.provider).name,
        "threads": target.threads,
        "spinning": is_spinning(target),
    }


def machine_differences(then: Mapping[str, JSON], now: Mapping[str, JSON]) -> tuple[str, ...]:
    """What differs between two environment blocks so that their latencies cannot be compared, as phrases."""
    return tuple(
        f"{key} {_text(then.get(key))} then, {_text(now.get(key))} now"
        for key in FINGERPRINT
        if then.get(key) != now.get(key)
    )


def is_spinning(target: Target) -> bool:
    """Whether idle threads of a session for ``target`` wait by spinning (ONNX Runtime's default)."""
    return target.threads > 1 and target.session_config.get(SPINNING, "1") != "0"


def settle_spinning(target: Target, *, paired: bool) -> Target:
    """The target with what keeps the threads of a session from disturbing a measurement; set entries are kept.

    On a shared machine (a CPU quota, or more than half of the allowed cores busy) spinning is switched off: it would
    burn the quota, or the time slices that the threads wait for. In a process with two sessions it ends with each run:
    by default the threads of one session spin on for tens of milliseconds while the other is being timed.
    """
    if not is_spinning(target):
        return target
    config: dict[str, str] = {}
    if SPINNING not in target.session_config and (cgroup_quota() is not None or busy_share() > SHARED_LOAD):
        config[SPINNING] = "0"
    elif paired:
        config[STOP_SPINNING] = "1"
    return replace(target, session_config={**config, **target.session_config})


def busy_share(seconds: float = LOOK_SECONDS) -> float:
    """The share of the allowed cores that is in use now, while this process sleeps for ``seconds``.

    Where the system does not count per core: the load average of the last minute over the cores (0 when unknown).
    """
    before = _core_times()
    time.sleep(seconds)
    after = _core_times()
    total = sum(after[core][1] - before[core][1] for core in before if core in after)
    if total > 0:
        return sum(after[core][0] - before[core][0] for core in before if core in after) / total
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0


def _core_times() -> dict[str, tuple[int, int]]:
    """Busy and total clock ticks of each core this process may use (``proc(5)``: user nice system idle iowait ...)."""
    allowed = {f"cpu{i}" for i in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set[str]()
    found: dict[str, tuple[int, int]] = {}
    for line in _lines("/proc/stat"):
        name, *fields = line.split()
        if name in allowed:
            ticks = [int(f) for f in fields[:8]]
            found[name] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def relevant_isa() -> tuple[str, ...]:
    """The instruction sets of this CPU that decide which integer kernels run."""
    return tuple(flag for flag in ISA if flag in cpu_flags())


def _text(value: JSON) -> str:
    return " ".join(str(v) for v in value) if isinstance(value, list) else str(value)


def _cpu_model() -> str | None:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or None


def _memory_mb() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lines(path: str) -> Iterator[str]:
    try:
        yield from Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return
