"""What ONNX Runtime says, for people."""

from __future__ import annotations

import re

__all__ = ["said"]

LONGEST = 400
CLUTTER = (
    re.compile(r"^.*\[[\w-]+-EP\] "),
    re.compile(r"^\S+\.(?:cc|h|cpp):\d+ (?:[^()]*::[^()]*\((?:[^()]|\([^()]*\))*\) )?"),
    re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "),
    re.compile(r"^Load model from .*? failed:\s*"),
    re.compile(r"^\S+\.(?:cc|h|cpp):\d+ (?:[^()]*::[^()]*\((?:[^()]|\([^()]*\))*\) )?"),
)
"""What stands before ONNX Runtime's own words, in this order."""


def said(error: Exception | str) -> str:
    """What ONNX Runtime says, on one line, without its error number, file names and C++ signatures."""
    text = " ".join(str(error).split())
    for pattern in CLUTTER:
        text = pattern.sub("", text, count=1)
    return text[:LONGEST] or (type(error).__name__ if isinstance(error, Exception) else "")
