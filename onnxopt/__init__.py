"""onnxopt: ONNX post-training optimization with a measured proof that the result is faster and right.

Every command of the command line is one function here that returns a ``Report``; nothing heavy is imported until a
name is used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""Before ONNX Runtime is imported: it would leave a file with an identifier in the temporary folder."""
if TYPE_CHECKING:
    from onnxopt.commands.bench import bench
    from onnxopt.commands.common import Source
    from onnxopt.commands.compare import compare
    from onnxopt.commands.demo import demo
    from onnxopt.commands.distill import distill, finetune
    from onnxopt.commands.doctor import doctor
    from onnxopt.commands.export import export
    from onnxopt.commands.gate import gate
    from onnxopt.commands.inspect import inspect
    from onnxopt.commands.limits import Limits
    from onnxopt.commands.merge import merge
    from onnxopt.commands.optimize import optimize
    from onnxopt.commands.prune import prune
    from onnxopt.commands.prune_quantize import prune_and_quantize
    from onnxopt.commands.quantize import quantize
    from onnxopt.core.io import load, save
    from onnxopt.core.query import Model
    from onnxopt.core.report import Report
    from onnxopt.errors import OnnxoptError
    from onnxopt.merging.strategies import Average, Cascade, Serial, Soup, Stack, Vote, Weighted
    from onnxopt.run.session import load_session
    from onnxopt.run.target import Target

_HOMES = {
    "Average": "merging.strategies",
    "Cascade": "merging.strategies",
    "Limits": "commands.limits",
    "Model": "core.query",
    "OnnxoptError": "errors",
    "Report": "core.report",
    "Serial": "merging.strategies",
    "Soup": "merging.strategies",
    "Source": "commands.common",
    "Stack": "merging.strategies",
    "Target": "run.target",
    "Vote": "merging.strategies",
    "Weighted": "merging.strategies",
    "bench": "commands.bench",
    "compare": "commands.compare",
    "demo": "commands.demo",
    "distill": "commands.distill",
    "doctor": "commands.doctor",
    "export": "commands.export",
    "finetune": "commands.distill",
    "gate": "commands.gate",
    "inspect": "commands.inspect",
    "load": "core.io",
    "load_session": "run.session",
    "merge": "commands.merge",
    "optimize": "commands.optimize",
    "prune": "commands.prune",
    "prune_and_quantize": "commands.prune_quantize",
    "quantize": "commands.quantize",
    "save": "core.io",
}

__all__ = [
    "Average",
    "Cascade",
    "Limits",
    "Model",
    "OnnxoptError",
    "Report",
    "Serial",
    "Soup",
    "Source",
    "Stack",
    "Target",
    "Vote",
    "Weighted",
    "bench",
    "compare",
    "demo",
    "distill",
    "doctor",
    "export",
    "finetune",
    "gate",
    "inspect",
    "load",
    "load_session",
    "merge",
    "optimize",
    "prune",
    "prune_and_quantize",
    "quantize",
    "save",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxopt' has no attribute {name!r}")
    return getattr(import_module(f"onnxopt.{_HOMES[name]}"), name)
