"""What a child process needs to import this very package."""

from __future__ import annotations

import os
from pathlib import Path

from onnxopt import errors

__all__ = ["child_environment"]


def child_environment() -> dict[str, str]:
    """This process's environment, with the folder of this very package first on the path unless it is installed."""
    environment = dict(os.environ)
    home = Path(errors.__file__).resolve().parents[1]
    if home.name not in ("site-packages", "dist-packages"):
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(home) + (os.pathsep + known if known else "")
    return environment
