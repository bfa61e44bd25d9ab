"""The layer table of the design: a module imports only from lower rows, also inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import onnxopt

ROOT = Path(onnxopt.__file__).parent
ROWS = (
    {"core", "errors"},
    {"run", "data"},
    {"evaluate", "measurement"},
    {"passes", "frameworks"},
    {"quantization", "pruning", "merging", "recover"},
    {"recipe"},
    {"commands"},
    {"report", "tune"},
    {"cli", "pytest_plugin"},
)
ROW = {name: row for row, names in enumerate(ROWS) for name in names}
ANYWHERE = {"", "errors"}
"""``onnxopt`` itself holds the version; errors import nothing of onnxopt."""
EXEMPT = {"__init__", "__main__"}
"""Public names, loaded lazily."""


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The packages of onnxopt that a file imports anywhere in it; '' for onnxopt itself."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its layer"
            modules = [node.module or ""]
            if node.module == "onnxopt":
                modules += [f"onnxopt.{a.name}" for a in node.names if a.name in ROW]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "onnxopt":
                found.add(parts[1] if len(parts) > 1 else "")
    return found


FILES = [path for path in sorted(ROOT.rglob("*.py")) if package_of(path) not in EXEMPT | {"recipes"}]


def test_every_package_has_a_row() -> None:
    assert {package_of(path) for path in FILES} <= set(ROW)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_point_down(path: Path) -> None:
    own = package_of(path)
    for other in imported(path) - ANYWHERE - {own}:
        assert ROW[other] < ROW[own], f"{own} may not import {other}"
    if own == "errors":
        assert imported(path) == set()


def test_imports_inside_functions_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("def f():\n    from onnxopt import cli\n    import onnxopt.report.html\n")
    assert imported(file) == {"", "cli", "report"}
