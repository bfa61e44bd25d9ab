"""Memory that this process uses, on the host and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from onnxopt.run.target import Target, provider

__all__ = ["device_bytes", "peak_rss_bytes"]

ASK_DRIVER = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
DRIVER_SECONDS = 10


def peak_rss_bytes() -> int | None:
    """Peak resident memory of this process: ``VmHWM`` on Linux, where ``ru_maxrss`` counts the parent's too."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_bytes(target: Target) -> int | None:
    """Memory of NVIDIA devices that this process holds now, as the driver tells; ``None``: none, or not told."""
    if provider(target.provider).short not in ("cuda", "tensorrt"):
        return None
    try:
        told = subprocess.run(ASK_DRIVER, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    held = [int(used) for pid, used in (line.split(",") for line in told.splitlines()) if int(pid) == os.getpid()]
    return sum(held) * 2**20 if held else None
