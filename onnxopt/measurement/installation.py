"""The packages that provide the module ``onnxruntime``: more than one overwrite each other's files."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

__all__ = ["available_mb", "runtime_packages"]


def runtime_packages(found: Iterable[Distribution] | None = None) -> dict[str, str]:
    """Name and version of each installed distribution that brings the module ``onnxruntime``.

    Args:
        found: Distributions to look through; default: all that are installed.
    """
    return {
        dist.metadata["Name"]: dist.version
        for dist in (distributions() if found is None else found)
        if dist.metadata["Name"].lower().startswith("onnxruntime")
        and any(file.parts[:2] == ("onnxruntime", "__init__.py") for file in dist.files or ())
    }


def available_mb() -> int | None:
    """Memory (MiB) that a new program can use without swapping; ``None``: the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:")), None)
